// How a sum over channels is cut among the blocks of a launch; plain C++, tested without a GPU.
//
// A tensor is a matrix [outer, channels * inner]. A block takes a *span* of columns, some channels or a single one, in
// some of the rows. Its threads stand in a grid of `lanes` columns of packets by several rows; where a channel is
// longer than the lanes reach, they go along it. The shape and the size of a packet alone decide.
#pragma once

#include <cstdint>

#include "../channels.h"

namespace fastgan::cuda {

constexpr int kChannelThreads = 256;
constexpr int64_t kChannelBlocks = 512;     // enough for every GPU
constexpr int64_t kChannelNumbers = 16384;  // of a block, before there are more of them

struct ChannelParts {
  int64_t channels;  // of a span
  int64_t spans;
  int lanes;     // packets that are adjacent, taken at a time
  int64_t rows;  // of a part
  int64_t parts;
  bool whole_packets;  // none crosses from one span to the next
  constexpr int rows_at_once() const { return kChannelThreads / lanes; }
  constexpr int64_t blocks() const { return spans * parts; }
};

constexpr ChannelParts cut_channels(const Channels& s, int packet) {
  const int64_t reach = static_cast<int64_t>(kChannelThreads) * packet;
  int64_t channels = s.inner == 0 || s.inner >= reach ? 1 : reach / s.inner;
  if (channels > packet) channels = channels / packet * packet;
  if (channels >= s.channels) channels = s.channels;
  if (channels == 0) return {1, 0, 1, 1, 1, true};
  const int64_t columns = channels * s.inner, spans = (s.channels + channels - 1) / channels;
  int lanes = 1;
  while (lanes < kChannelThreads && lanes * packet < columns) lanes *= 2;
  const int64_t most = (kChannelBlocks + spans - 1) / spans, enough = s.numbers() / spans / kChannelNumbers + 1;
  const int64_t wanted = enough < most ? enough : most, rows = s.outer <= wanted ? 1 : (s.outer + wanted - 1) / wanted;
  const int64_t parts = s.outer == 0 ? 1 : (s.outer + rows - 1) / rows;
  return {channels, spans, lanes, rows, parts, columns % packet == 0 && s.row() % packet == 0};
}

// What one thread has of a block's values: packets in some rows, at the span's columns begin, begin + step, ...
struct ChannelShare {
  int64_t span, part;
  int64_t channel, channels;     // the span's first one, and how many
  int64_t columns, begin, step;  // of the span; of this thread
  int64_t row, row_end, row_step;
};
constexpr ChannelShare channel_share(const Channels& s, const ChannelParts& p, int64_t block, int thread, int packet) {
  const int64_t span = block % p.spans, part = block / p.spans, channel = span * p.channels;
  const int64_t left = s.channels - channel, channels = left < p.channels ? left : p.channels;
  const int64_t row = part * p.rows, row_end = row + p.rows < s.outer ? row + p.rows : s.outer;
  return {span,
          part,
          channel,
          channels,
          channels * s.inner,
          static_cast<int64_t>(thread % p.lanes) * packet,
          static_cast<int64_t>(p.lanes) * packet,
          row + thread / p.lanes,
          row_end,
          p.rows_at_once()};
}

}  // namespace fastgan::cuda
