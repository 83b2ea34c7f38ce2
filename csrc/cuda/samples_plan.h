// How a batch of samples [count, size] is cut among the blocks of a launch; plain C++, tested without a GPU.
//
// A *team* of threads takes a sample: some lanes of a warp a small one, so that a block takes many; a whole block one
// part of a large one. The sizes alone decide how, so that sums are taken in the same order on every GPU.
#pragma once

#include <cstdint>

#include "../samples.h"

namespace fastgan::cuda {

constexpr int kSampleThreads = 256;
constexpr int64_t kTeamNumbers = 8;      // values that a thread takes, before the team grows to a warp
constexpr int64_t kWarpNumbers = 1024;   // largest sample of a warp
constexpr int64_t kSampleTile = 4096;    // parts are made of such tiles
constexpr int64_t kSampleBlocks = 1024;  // blocks of a sum: enough for every GPU, so that the parts are large

struct Samples {
  int64_t count, size;
  int team;       // threads to a sample
  int64_t part;   // values
  int64_t parts;  // of a sample
  // Samples that a block takes at a time.
  constexpr int rows() const { return kSampleThreads / team; }
  constexpr int64_t blocks() const { return (count + rows() - 1) / rows() * parts; }
};

// Cuts large samples into `blocks` parts in all, or a few more, and into as many as there are tiles if it is 0.
constexpr Samples cut_samples(int64_t count, int64_t size, int64_t blocks) {
  Samples s{count, size, 1, size, 1};
  if (size <= kWarpNumbers) {
    while (s.team < 32 && s.team * kTeamNumbers < size) s.team *= 2;
    return s;
  }
  s.team = kSampleThreads;
  const int64_t tiles = (size + kSampleTile - 1) / kSampleTile;
  const int64_t wanted = blocks == 0 || count == 0 ? tiles : (blocks + count - 1) / count;
  const int64_t tiles_per_part = wanted < tiles ? (tiles + wanted - 1) / wanted : 1;
  s.part = tiles_per_part * kSampleTile;
  s.parts = (size + s.part - 1) / s.part;
  return s;
}

// What one thread has of a sample: packets at begin, begin + step, ... below end.
struct Share {
  int64_t sample, part;
  int64_t begin, end, step;
  bool first;  // of its team
};
constexpr Share share_of(const Samples& s, int64_t block, int thread, int packet) {
  const int64_t group = block / s.parts, part = block % s.parts, sample = group * s.rows() + thread / s.team;
  const int lane = thread % s.team;
  const int64_t begin = part * s.part, end = begin + s.part < s.size ? begin + s.part : s.size;
  const int64_t step = static_cast<int64_t>(s.team) * packet;
  return {sample, part, begin + lane * packet, sample < s.count ? end : 0, step, lane == 0};
}

}  // namespace fastgan::cuda
