// How a tensor with channels is cut among the blocks of a launch; plain C++, tested without a GPU.
//
// Channels outermost: every channel of a sample is cut as a sample of its own, see samples_plan.h. Channels innermost:
// a block takes some columns of a part of the positions, a packet of channels to a thread, row after row. The sizes
// alone decide how, so that sums are taken in the same order on every GPU.
#pragma once

#include "../scale_shift_act.h"
#include "samples_plan.h"

namespace fastgan::cuda {

constexpr int kColumnThreads = 256;
constexpr int kColumnLanes = 32;        // most threads next to each other
constexpr int64_t kColumnNumbers = 16;  // rows of a thread

struct Columns {
  int64_t count, channels, positions;
  int packet;      // channels of a thread
  int lanes;       // threads next to each other
  int64_t blocks;  // next to each other
  int64_t part;    // positions
  int64_t parts;   // of a sample
  constexpr int rows() const { return kColumnThreads / lanes; }
  constexpr int64_t all_blocks() const { return count * parts * blocks; }
};

// `most` channels to a packet where whole packets make a row, so that they are aligned.
constexpr Columns cut_columns(int64_t count, int64_t channels, int64_t positions, int most) {
  Columns c{count, channels, positions, channels % most == 0 ? most : 1, 1, 1, 0, 1};
  while (c.lanes < kColumnLanes && int64_t{c.lanes} * c.packet < channels) c.lanes *= 2;
  c.blocks = (channels + c.lanes * c.packet - 1) / (c.lanes * c.packet);
  c.part = c.rows() * kColumnNumbers;
  c.parts = (positions + c.part - 1) / c.part;
  return c;
}

// What one thread has: a packet of channels from `channel` on, at positions begin, begin + step, ... below end.
struct ColumnShare {
  int64_t sample, part, channel;
  int64_t begin, end, step;
  int lane, row;
};
constexpr ColumnShare share_of(const Columns& c, int64_t block, int thread) {
  const int64_t side = block % c.blocks, part = block / c.blocks % c.parts, sample = block / c.blocks / c.parts;
  const int lane = thread % c.lanes, row = thread / c.lanes;
  const int64_t channel = (side * c.lanes + lane) * c.packet, begin = part * c.part;
  const int64_t end = begin + c.part < c.positions ? begin + c.part : c.positions;
  return {sample, part, channel, begin + row, channel < c.channels ? end : 0, c.rows(), lane, row};
}

// Where the two sums of every part are in the workspace, and how many positions a part has.
struct Parts {
  int64_t count, channels, positions, parts, part;
  int64_t sample_step, part_step, channel_step, second;
  constexpr int64_t at(int64_t n, int64_t c, int64_t part_of_sample) const {
    return n * sample_step + part_of_sample * part_step + c * channel_step;
  }
  constexpr int64_t size(int64_t part_of_sample) const {
    const int64_t rest = positions - part_of_sample * part;
    return rest < part ? rest : part;
  }
};
constexpr Parts parts_of(const Columns& c) {
  return {c.count, c.channels, c.positions, c.parts, c.part, c.parts * 2 * c.channels, 2 * c.channels, 1, c.channels};
}
constexpr Parts parts_of(const Samples& s, int64_t count, int64_t channels) {
  return {count, channels, s.size, s.parts, s.part, channels * s.parts * 2, 2, s.parts * 2, 1};
}

}  // namespace fastgan::cuda
