// Python's table of the CPU's memory.
#include "bind.h"
#include "memory.h"

namespace fastgan {

using py::literals::operator""_a;

// A tensor made by torch.frombuffer holds the block, and with it the pages.
void bind_memory(py::module_& m) {
  py::class_<Block>(m, "Block", py::buffer_protocol(), py::module_local())
      .def(py::init<size_t>(), "bytes"_a)
      .def_buffer([](const Block& b) {
        return py::buffer_info(static_cast<unsigned char*>(b.data()), static_cast<py::ssize_t>(b.bytes()));
      });
  m.def("block_bytes", [] {
    const BlockBytes bytes = block_bytes();
    return py::dict("free"_a = bytes.free, "used"_a = bytes.used);
  });
  m.def("forget_free_blocks", forget_free_blocks);
}

}  // namespace fastgan
