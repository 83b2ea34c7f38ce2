// The index arithmetic of spectral_norm.cu, in plain C++ so that it is tested without a GPU.
//
// A block of kThreads threads reads kThreads / team rows at a time, a *team* of threads to each row; a thread holds at
// most kColumns of its row's values in registers. The rows read at a time make a *tile*, so that tiles are of about
// the same size whatever the shape of the layer. The tiles of all layers stand in one line, which is cut evenly among
// the blocks; what a block has of one layer is a *part*. One share of W^T c is kept per part: a few hundred in all,
// however large the layers.
#pragma once

#include <cstdint>

#include "../spectral_norm.h"

namespace fastgan::cuda {

constexpr int kThreads = 512;
constexpr int kColumns = 32;     // values of a row that one thread holds, at most
constexpr int kMinTeam = 8;      // 8 threads read 32 bytes of float at least, the unit in which memory is read
constexpr int kMaxBlocks = 256;  // more than any GPU has multiprocessors; bounds the workspace
constexpr int kSumColumns = 32;  // columns that one block of the column sums takes at a time
constexpr int kSumBlocks = 512;  // most blocks that sum the columns of one layer

// One launch takes so many layers: its argument stays under 4 KB, the limit before CUDA 12.1.
constexpr int kChunkLayers = 44;

struct Chunk {
  SpectralNormLayer layers[kChunkLayers];
  int64_t tiles;
  int count;
  int blocks;
  void* workspace;
  void* sigmas;
  const void* grad_sigmas;
  double eps;
  DType other_dtype;  // of the output, or in a backward of the gradient
};
static_assert(sizeof(Chunk) + 64 <= 4096, "a launch takes 4 KB of arguments");

// --- rows: tiles, blocks, parts ---

constexpr int team_size(int64_t cols, int columns) {
  int team = kMinTeam;
  while (team < kThreads && static_cast<int64_t>(team) * columns < cols) team *= 2;
  return team;
}
constexpr int64_t tile_rows(int64_t cols) { return kThreads / team_size(cols, kColumns); }
constexpr int64_t layer_tiles(const SpectralNormLayer& layer) { return ceil_div(layer.rows, tile_rows(layer.cols)); }

constexpr int64_t first_tile(const Chunk& chunk, int block) { return block * chunk.tiles / chunk.blocks; }
constexpr int block_of(const Chunk& chunk, int64_t tile) {
  return static_cast<int>(((tile + 1) * chunk.blocks - 1) / chunk.tiles);
}
constexpr int64_t end_tile(const Chunk& chunk, int layer) {
  return layer + 1 < chunk.count ? chunk.layers[layer + 1].first_tile : chunk.tiles;
}
constexpr int part_count(const Chunk& chunk, int layer) {
  return block_of(chunk, end_tile(chunk, layer) - 1) - block_of(chunk, chunk.layers[layer].first_tile) + 1;
}

// The first layer of which a block has a part; it has one of each that follows, up to the first that is empty.
constexpr int first_layer(const Chunk& chunk, int block) {
  const int64_t tile = first_tile(chunk, block);
  int low = 0, high = chunk.count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (chunk.layers[middle].first_tile <= tile) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

struct Part {
  int index;           // among the parts of the layer
  int64_t begin, end;  // rows
  constexpr bool empty() const { return begin >= end; }
};
constexpr Part part_of(const Chunk& chunk, int block, int layer) {
  if (layer >= chunk.count) return {0, 0, 0};
  const SpectralNormLayer& l = chunk.layers[layer];
  const int64_t block_begin = first_tile(chunk, block), block_end = first_tile(chunk, block + 1);
  const int64_t layer_end = end_tile(chunk, layer), rows = tile_rows(l.cols);
  const int64_t begin = (block_begin > l.first_tile ? block_begin - l.first_tile : 0) * rows;
  const int64_t end = ((block_end < layer_end ? block_end : layer_end) - l.first_tile) * rows;
  return {block - block_of(chunk, l.first_tile), begin, end < l.rows ? end : l.rows};
}

// --- columns: teams, packets ---

// Values are read in packets: of 16 bytes where all rows start on a boundary of 16 bytes, else of one number.
// Neighbouring threads of a team read neighbouring packets; the packets that a thread holds of a row are its slots.
template <int kPacket>
struct Lanes {
  int team;   // threads per row
  int rows;   // rows at a time
  int row;    // of this thread, among those rows
  int lane;   // of this thread, in its team
  int slots;  // that this thread has
};
template <int kPacket>
constexpr int column(int team, int lane, int slot, int number) {
  return (slot * team + lane) * kPacket + number;
}
template <int kPacket>
constexpr Lanes<kPacket> make_lanes(int thread, int cols, int columns) {
  const int team = team_size(cols, columns), lane = thread % team, step = team * kPacket;
  return {team, kThreads / team, thread / team, lane, (cols - lane * kPacket + step - 1) / step};
}

// v is stored in shared memory in the order in which the threads of a team read it, kPiece values at a time.
template <int kPiece>
constexpr int staged_index(int team, int lane, int number) {
  return (number / kPiece * team + lane) * kPiece + number % kPiece;
}

// --- streams: the values of a part one after the other, whatever its rows ---

constexpr int kStreamThreads = 256;
constexpr int kStreamBlocks = 3;  // that share a part, alternating batch by batch

// A batch is what a block has on its way from memory at a time: packets_at_once packets to each thread.
constexpr int packets_at_once(int packet) { return packet == 1 ? 8 : packet == 8 ? 2 : 4; }
constexpr int64_t batch_size(int packet) {
  return static_cast<int64_t>(kStreamThreads) * packet * packets_at_once(packet);
}

struct Stream {
  int64_t begin, end;  // values of the layer's matrix
  int64_t batches;
};
constexpr Stream make_stream(const SpectralNormLayer& layer, const Part& part, int packet) {
  const int64_t begin = part.begin * layer.cols, end = part.end * layer.cols;
  return {begin, end, ceil_div(end - begin, batch_size(packet))};
}
// Where a thread's packet is; there is none at stream.end and beyond.
constexpr int64_t packet_at(const Stream& stream, int packet, int64_t batch, int thread, int i) {
  return stream.begin + batch * batch_size(packet) + (static_cast<int64_t>(i) * kStreamThreads + thread) * packet;
}

// Where a number stands in its matrix; advancing needs no division.
struct Place {
  int64_t row, col;
};
constexpr Place place(int64_t at, int64_t cols) { return {at / cols, at % cols}; }
constexpr Place advance(const Place& from, const Place& step, int64_t cols) {
  const int64_t row = from.row + step.row, col = from.col + step.col;
  return col < cols ? Place{row, col} : Place{row + 1, col - cols};
}

// --- workspace ---

// A layer's scratch: sums over its parts and over its columns (double), t = W v [rows], p = W^T u [cols], shares
// [parts, cols].
constexpr int64_t kPartSums = 0;
constexpr int64_t kColumnSums = kPartSums + 2 * kMaxBlocks * kStreamBlocks;
constexpr int64_t kVectors = kColumnSums + 2 * kSumBlocks;

constexpr int64_t most_parts(int64_t of_layer, int64_t tiles) {
  const int64_t parts = of_layer * kMaxBlocks / tiles + 2;
  return parts < of_layer ? parts : of_layer;
}
constexpr int64_t scratch_size(const SpectralNormLayer& layer, int64_t tiles) {
  return kVectors + padded(layer.rows) + (1 + most_parts(layer_tiles(layer), tiles)) * padded(layer.cols);
}

// Places every layer's scratch, and its tiles among those of its chunk; returns the size of the workspace in elements.
inline int64_t plan_layers(SpectralNormLayer* layers, int64_t count) {
  int64_t scratch = 0;
  for (int64_t start = 0; start < count; start += kChunkLayers) {
    const int64_t end = start + kChunkLayers < count ? start + kChunkLayers : count;
    int64_t tiles = 0;
    for (int64_t i = start; i < end; ++i) {
      layers[i].first_tile = tiles;
      tiles += layer_tiles(layers[i]);
    }
    for (int64_t i = start; i < end; ++i) {
      layers[i].scratch = scratch;
      scratch += scratch_size(layers[i], tiles);
    }
  }
  return scratch;
}

// The chunk that starts at a layer, for a GPU of so many multiprocessors; its pointers are left to the caller.
inline Chunk make_chunk(const SpectralNormLayer* layers, int64_t start, int64_t count, int multiprocessors) {
  Chunk chunk{};
  chunk.count = static_cast<int>(count - start < kChunkLayers ? count - start : kChunkLayers);
  for (int i = 0; i < chunk.count; ++i) chunk.layers[i] = layers[start + i];
  const SpectralNormLayer& last = chunk.layers[chunk.count - 1];
  chunk.tiles = last.first_tile + layer_tiles(last);
  const int most = multiprocessors < kMaxBlocks ? multiprocessors : kMaxBlocks;
  chunk.blocks = static_cast<int>(chunk.tiles < most ? chunk.tiles : most);
  return chunk;
}

}  // namespace fastgan::cuda
