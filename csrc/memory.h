// Blocks of memory for outputs on the CPU. The first touch of a fresh page costs more than the arithmetic of a
// memory-bound kernel: a block that is gone leaves its pages to the next one of its size.
#pragma once

#include <cstddef>

namespace fastgan {

// Owns the pages of one block.
class Block {
 public:
  explicit Block(size_t bytes);  // throws std::runtime_error
  ~Block();
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  void* data_;
  size_t bytes_;
};

struct BlockBytes {
  size_t free;  // kept for reuse
  size_t used;  // in living blocks
};

BlockBytes block_bytes();

// Gives all pages that are kept for reuse back to the system, and starts to measure again what is in use.
void forget_free_blocks();

}  // namespace fastgan
