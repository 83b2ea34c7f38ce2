// Every file in csrc/cpu is compiled once per x86-64 level, into a namespace of the level's name; bind.cpp calls the
// best one that the processor has. These files instantiate nothing of std:: and define nothing that another file could
// share, because the linker would keep one copy for all levels.
#pragma once

#ifndef FASTGAN_CPU_LEVEL
#define FASTGAN_CPU_LEVEL base
#endif
