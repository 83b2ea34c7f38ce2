// See csrc/memory.h.
#include "memory.h"

#include <pthread.h>
#include <sys/mman.h>

#include <deque>
#include <mutex>
#include <stdexcept>
#include <string>
#include <unordered_map>

namespace fastgan {
namespace {

struct Pool {
  std::mutex mutex;                                    // tensors may die on any thread
  std::unordered_map<size_t, std::deque<void*>> free;  // by size; the one used last at the end
  BlockBytes bytes{0, 0};
  size_t most = 0;  // in use at once
};

Pool& pool() {
  // Never destroyed: the last tensors may die after the library's statics. A forked process finds the mutex free.
  static Pool* const kept = [] {
    static Pool* const made = new Pool;
    const auto unlock = [] { made->mutex.unlock(); };
    pthread_atfork([] { made->mutex.lock(); }, unlock, unlock);
    return made;
  }();
  return *kept;
}

// Null if there is no room.
void* map(size_t bytes) {
  // Private: a forked process must not write into these pages.
  void* const data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return nullptr;
#ifdef MADV_HUGEPAGE
  madvise(data, bytes, MADV_HUGEPAGE);
#endif
  return data;
}

// Gives free blocks back until at most `limit` bytes are left; the mutex is held.
void drop(Pool& p, size_t limit) {
  for (auto& [bytes, blocks] : p.free) {
    while (p.bytes.free > limit && !blocks.empty()) {
      munmap(blocks.front(), bytes);
      blocks.pop_front();
      p.bytes.free -= bytes;
    }
  }
}

}  // namespace

Block::Block(size_t bytes) : bytes_(bytes) {
  Pool& p = pool();
  const std::lock_guard<std::mutex> lock(p.mutex);
  auto& blocks = p.free[bytes];
  if (blocks.empty()) {
    // What is kept for nothing stays below the most that was in use: the next step will want most of it. Where there
    // is no room, nothing is kept.
    drop(p, p.most);
    data_ = map(bytes);
    if (data_ == nullptr) {
      drop(p, 0);
      data_ = map(bytes);
    }
    // As torch does, so that what catches its errors catches this one.
    if (data_ == nullptr)
      throw std::runtime_error("not enough memory: no room for " + std::to_string(bytes) + " bytes");
  } else {
    data_ = blocks.back();
    blocks.pop_back();
    p.bytes.free -= bytes;
  }
  p.bytes.used += bytes;
  if (p.bytes.used > p.most) p.most = p.bytes.used;
}

Block::~Block() {
  Pool& p = pool();
  const std::lock_guard<std::mutex> lock(p.mutex);
  p.free[bytes_].push_back(data_);
  p.bytes.used -= bytes_;
  p.bytes.free += bytes_;
}

BlockBytes block_bytes() {
  const std::lock_guard<std::mutex> lock(pool().mutex);
  return pool().bytes;
}

void forget_free_blocks() {
  Pool& p = pool();
  const std::lock_guard<std::mutex> lock(p.mutex);
  drop(p, 0);
  p.most = p.bytes.used;
}

}  // namespace fastgan
