// The index arithmetic of the CUDA kernels, walked block by block and thread by thread: every number is met exactly
// once. Built and run by test_cuda_build.py; prints what is wrong, and fails.
#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

#include "cuda/channels_plan.h"
#include "cuda/columns_plan.h"
#include "cuda/samples_plan.h"
#include "cuda/spectral_norm_plan.h"
#include "cuda/upfirdn2d_plan.h"
#include "pixel_shuffle_act.h"

using namespace fastgan;
using namespace fastgan::cuda;

#define CHECK(condition)                                                        \
  do {                                                                          \
    if (!(condition)) {                                                         \
      std::printf("%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                             \
    }                                                                           \
  } while (false)

using Shapes = std::vector<std::pair<int64_t, int64_t>>;

std::vector<SpectralNormLayer> make_layers(const Shapes& shapes) {
  std::vector<SpectralNormLayer> layers(shapes.size());
  for (size_t i = 0; i < shapes.size(); ++i) {
    layers[i].rows = shapes[i].first;
    layers[i].cols = shapes[i].second;
  }
  return layers;
}

// Every row belongs to one part, parts are numbered in order, and the workspace has room for their shares.
void check_rows(const Chunk& chunk) {
  std::vector<int64_t> rows(chunk.count);
  std::vector<int> parts(chunk.count);
  for (int block = 0; block < chunk.blocks; ++block) {
    bool worked = false;
    for (int layer = first_layer(chunk, block);; ++layer) {
      const Part part = part_of(chunk, block, layer);
      if (part.empty()) break;
      worked = true;
      CHECK(part.begin == rows[layer]);
      CHECK(part.index == parts[layer]);
      rows[layer] = part.end;
      ++parts[layer];
    }
    CHECK(worked);
  }
  for (int layer = 0; layer < chunk.count; ++layer) {
    const SpectralNormLayer& l = chunk.layers[layer];
    CHECK(rows[layer] == l.rows);
    CHECK(parts[layer] == part_count(chunk, layer));
    CHECK(parts[layer] <= kMaxBlocks);
    CHECK(parts[layer] <= most_parts(layer_tiles(l), chunk.tiles));
  }
}

void check_network(const Shapes& shapes, int multiprocessors) {
  auto layers = make_layers(shapes);
  const auto count = static_cast<int64_t>(layers.size());
  const int64_t size = plan_layers(layers.data(), count);
  int64_t scratch = 0, seen = 0;
  for (int64_t start = 0; start < count; start += kChunkLayers) {
    const Chunk chunk = make_chunk(layers.data(), start, count, multiprocessors);
    CHECK(chunk.blocks >= 1 && chunk.blocks <= multiprocessors && chunk.blocks <= kMaxBlocks);
    check_rows(chunk);
    for (int i = 0; i < chunk.count; ++i, ++seen) {
      CHECK(chunk.layers[i].rows == layers[seen].rows && chunk.layers[i].cols == layers[seen].cols);
      CHECK(chunk.layers[i].scratch == scratch);
      CHECK(scratch % 16 == 0);
      scratch += scratch_size(chunk.layers[i], chunk.tiles);
    }
  }
  CHECK(seen == count);
  CHECK(scratch == size);
}

// A block meets every column of each of the rows that it reads at a time once, and finds v where it was staged.
template <int kPacket>
void check_columns(int cols, int columns, int piece) {
  if (cols % kPacket != 0 || cols > kThreads * columns) return;
  const int team = team_size(cols, columns), rows = kThreads / team;
  std::vector<int> met(static_cast<size_t>(rows) * cols), staged(team * columns);
  for (int thread = 0; thread < kThreads; ++thread) {
    const auto lanes = make_lanes<kPacket>(thread, cols, columns);
    CHECK(lanes.team == team && lanes.rows == rows && lanes.row < rows && lanes.lane < team);
    CHECK(lanes.slots <= columns / kPacket);
    for (int slot = 0; slot < columns / kPacket; ++slot) {
      for (int i = 0; i < kPacket; ++i) {
        const int j = column<kPacket>(team, lanes.lane, slot, i), number = slot * kPacket + i;
        CHECK((slot < lanes.slots) == (j < cols));
        if (j < cols) ++met[lanes.row * cols + j];
        const int index =
            piece == 4 ? staged_index<4>(team, lanes.lane, number) : staged_index<2>(team, lanes.lane, number);
        CHECK(index >= 0 && index < team * columns);
        if (lanes.row == 0) ++staged[index];
      }
    }
  }
  for (int times : met) CHECK(times == 1);
  for (int times : staged) CHECK(times == 1);
}

// The blocks that share a part meet every number of it once.
void check_stream(const SpectralNormLayer& layer, const Part& part, int packet) {
  const Stream stream = make_stream(layer, part, packet);
  std::vector<int> met(stream.end - stream.begin);
  for (int block = 0; block < kStreamBlocks; ++block) {
    for (int64_t batch = block; batch < stream.batches; batch += kStreamBlocks) {
      for (int thread = 0; thread < kStreamThreads; ++thread) {
        for (int i = 0; i < packets_at_once(packet); ++i) {
          const int64_t at = packet_at(stream, packet, batch, thread, i);
          if (at >= stream.end) continue;
          CHECK(at + packet <= stream.end);
          for (int number = 0; number < packet; ++number) ++met[at + number - stream.begin];
        }
      }
    }
  }
  for (int times : met) CHECK(times == 1);
}

// The same where there are too many numbers to count: batches follow one another, and the last one reaches the end.
void check_large_stream(const SpectralNormLayer& layer, const Part& part, int packet) {
  const Stream stream = make_stream(layer, part, packet);
  CHECK(stream.end - stream.begin == (part.end - part.begin) * layer.cols);
  int64_t next = stream.begin;
  for (int64_t batch = 0; batch < stream.batches; ++batch) {
    CHECK(packet_at(stream, packet, batch, 0, 0) == next);
    next = packet_at(stream, packet, batch, kStreamThreads - 1, packets_at_once(packet) - 1) + packet;
  }
  CHECK(next >= stream.end && next - batch_size(packet) < stream.end);
}

void check_places(int64_t cols, int64_t step) {
  const Place stride = place(step, cols);
  Place here = place(7, cols);
  for (int64_t at = 7, i = 0; i < 1000; ++i, at += step, here = advance(here, stride, cols)) {
    CHECK(here.row == at / cols && here.col == at % cols);
  }
}

// The threads of all blocks meet every number of every sample once, and each part of a sample has one team.
void check_samples(int64_t count, int64_t size, int64_t blocks, int packet) {
  const Samples s = cut_samples(count, size, blocks);
  std::vector<int> met(count * size), first(count * s.parts);
  for (int64_t block = 0; block < s.blocks(); ++block) {
    for (int thread = 0; thread < kSampleThreads; ++thread) {
      const Share share = share_of(s, block, thread, packet);
      if (share.first && share.sample < count) ++first[share.sample * s.parts + share.part];
      for (int64_t at = share.begin; at < share.end; at += share.step) {
        for (int i = 0; i < packet; ++i) ++met[share.sample * size + at + i];
      }
    }
  }
  for (int times : met) CHECK(times == 1);
  for (int times : first) CHECK(times == 1);
}

// The same at the ends of more numbers than 32 bits count: parts follow each other, and a launch takes so many blocks.
void check_large_samples(int64_t count, int64_t size, int64_t blocks) {
  const Samples s = cut_samples(count, size, blocks);
  CHECK(s.blocks() < int64_t{1} << 31);
  const Share last = share_of(s, s.blocks() - 1, 0, 1);
  CHECK(s.team < kSampleThreads || last.sample == count - 1);
  CHECK(last.part == s.parts - 1 && last.end == size && last.end - last.begin <= s.part);
  if (s.parts > 1) CHECK(share_of(s, s.blocks() - 2, 0, 1).end == last.begin);
  if (blocks > 0 && s.parts > 1) CHECK(s.blocks() < 2 * blocks);
}

// A sum over channels meets every number once; nothing is read beyond a row, no packet crosses a span.
void check_channels(const Channels& s, int packet) {
  const ChannelParts p = cut_channels(s, packet);
  if (!p.whole_packets) return;
  std::vector<int> met(s.numbers());
  for (int64_t block = 0; block < p.blocks(); ++block) {
    for (int thread = 0; thread < kChannelThreads; ++thread) {
      const ChannelShare share = channel_share(s, p, block, thread, packet);
      CHECK(share.channels > 0 && share.channel + share.channels <= s.channels);
      CHECK(share.channels == 1 || share.columns <= share.step);
      for (int64_t row = share.row; row < share.row_end; row += share.row_step) {
        for (int64_t at = share.begin; at < share.columns; at += share.step) {
          for (int i = 0; i < packet; ++i) ++met[row * s.row() + share.channel * s.inner + at + i];
        }
      }
    }
  }
  for (int times : met) CHECK(times == 1);
}

void check_large_channels(const Channels& s, int packet) {
  const ChannelParts p = cut_channels(s, packet);
  CHECK(p.blocks() < int64_t{1} << 31 && p.parts * p.rows >= s.outer && (p.parts - 1) * p.rows < s.outer);
  const ChannelShare last = channel_share(s, p, p.blocks() - 1, 0, packet);
  CHECK(last.row_end == s.outer && last.channel + last.channels == s.channels);
  CHECK(last.columns == last.channels * s.inner);
}

// The channel of a number, on both sides of 2^31.
void check_channel_of(const Channels& s) {
  const int64_t numbers = s.numbers(), large = int64_t{1} << 31;
  for (int64_t at :
       {int64_t{0}, s.inner - 1, s.inner, numbers / 3, large - 2, large - 1, large, large + 1, numbers - 1}) {
    if (at < numbers) CHECK(s.channel_of(at) == at / s.inner % s.channels);
  }
}

// The threads of all blocks meet every number of every channel once, and every part has a place of its own.
void check_columns(int64_t count, int64_t channels, int64_t positions, int most) {
  const Columns c = cut_columns(count, channels, positions, most);
  const Parts parts = parts_of(c);
  std::vector<int> met(count * channels * positions), first(count * parts.parts * 2 * channels);
  for (int64_t block = 0; block < c.all_blocks(); ++block) {
    for (int thread = 0; thread < kColumnThreads; ++thread) {
      const ColumnShare share = share_of(c, block, thread);
      for (int i = 0; i < c.packet && share.end > 0 && share.row == 0; ++i) {
        const int64_t at = parts.at(share.sample, share.channel + i, share.part);
        ++first[at], ++first[at + parts.second];
      }
      for (int64_t at = share.begin; at < share.end; at += share.step) {
        for (int i = 0; i < c.packet; ++i) ++met[(share.sample * positions + at) * channels + share.channel + i];
      }
    }
  }
  int64_t sum = 0;
  for (int64_t part = 0; part < parts.parts; ++part) sum += parts.size(part);
  CHECK(sum == positions);
  for (int times : met) CHECK(times == 1);
  for (int times : first) CHECK(times == 1);
  const Parts rows = parts_of(cut_samples(count * channels, positions, kSampleBlocks), count, channels);
  std::vector<int> places(count * channels * rows.parts * 2);
  for (int64_t n = 0; n < count; ++n) {
    for (int64_t channel = 0; channel < channels; ++channel) {
      for (int64_t part = 0; part < rows.parts; ++part) {
        const int64_t at = rows.at(n, channel, part);
        ++places[at], ++places[at + rows.second];
      }
    }
  }
  for (int times : places) CHECK(times == 1);
}

// The last number of more than 32 bits count.
void check_large_columns(int64_t count, int64_t channels, int64_t positions) {
  const Columns c = cut_columns(count, channels, positions, 8);
  CHECK(c.all_blocks() < int64_t{1} << 31);
  ColumnShare last{};
  for (int thread = 0; thread < kColumnThreads; ++thread) {
    const ColumnShare share = share_of(c, c.all_blocks() - 1, thread);
    if (share.end > 0 && share.begin < share.end) last = share;
  }
  CHECK(last.sample == count - 1 && last.end == positions && last.channel == channels - c.packet);
}

// Every value of x goes to a place of its own in y, and the last one, beyond 32 bits, to the last.
void check_shuffle(int64_t count, int64_t channels, int64_t height, int64_t width, int64_t r, bool last) {
  PixelShuffleAct a{};
  a.factor = r, a.count = count, a.channels = channels, a.height = height, a.width = width, a.last = last;
  const int64_t size = count * channels * r * r * height * width;
  CHECK(place_in_x(a, count - 1, channels - 1, r - 1, r - 1, height - 1, width - 1) == size - 1);
  CHECK(place_in_y(a, count - 1, channels - 1, r - 1, r - 1, height - 1, width - 1) == size - 1);
  if (size > 1 << 20) return;
  std::vector<int> in_x(size), in_y(size);
  for (int64_t n = 0; n < count; ++n)
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t ij = 0; ij < r * r; ++ij)
        for (int64_t hw = 0; hw < height * width; ++hw) {
          ++in_x[place_in_x(a, n, c, ij / r, ij % r, hw / width, hw % width)];
          ++in_y[place_in_y(a, n, c, ij / r, ij % r, hw / width, hw % width)];
        }
  for (int times : in_x) CHECK(times == 1);
  for (int times : in_y) CHECK(times == 1);
}

FilterAxis make_axis(int64_t in, int64_t taps, int64_t up, int64_t down, int64_t before, int64_t after) {
  return {in, (in * up + before + after - taps) / down + 1, taps, up, down, before};
}

// Every tap that meets an input, and no other, is in an output's reach.
void check_reach(const FilterAxis& a) {
  for (int64_t o = 0; o < a.out; ++o) {
    const Reach r = reach(a, o);
    int met = 0;
    for (int64_t j = 0; j < a.taps; ++j) {
      const int64_t at = o * a.down + j - a.pad;  // among inputs and inserted zeros, also where there are none
      if ((at % a.up + a.up) % a.up != 0) continue;
      CHECK(j == r.tap + met * a.up);
      CHECK(at == (r.input + met) * a.up);
      ++met;
    }
    CHECK(met == r.count);
  }
}

// Tiles meet every output once, and hold what it reads.
void check_parts(const FilterAxis& a, int size, int64_t inputs) {
  int64_t next = 0;
  for (int64_t tile = 0; tile * size < a.out; ++tile) {
    const ResamplePart part = resample_part(a, tile, size);
    CHECK(part.begin == next && part.count > 0 && part.count <= size);
    next += part.count;
    for (int o = 0; o < part.count; o += part.count > 100 ? part.count / 7 : 1) {
      const Reach r = reach(a, part.begin + o);
      const Reach here =
          reach_at<int>(part.start + o * static_cast<int>(a.down), static_cast<int>(a.up), static_cast<int>(a.taps));
      CHECK(here.tap == r.tap && here.count == r.count && here.input == r.input - part.from);
      CHECK(here.input >= 0 && here.input + here.count <= inputs);
    }
  }
  CHECK(next == a.out);
}

void check_resampling(const FilterAxis& rows, const FilterAxis& columns, int64_t inner) {
  Upfirdn2d a{};
  a.planes = 1;
  a.inner = inner;
  a.rows = rows;
  a.columns = columns;
  for (int bytes : {4, 8}) {
    const ResampleTiles t = cut_resample(a, bytes);
    CHECK(t.rows > 0 && t.columns > 0 && t.channels > 0 && fits(a, t, bytes));
    CHECK(t.deep * t.channels >= inner && (t.deep - 1) * t.channels < inner);
    if (rows.out < 1000) check_parts(rows, t.rows, t.in_rows);
    check_parts(columns, t.columns, t.in_columns);
  }
}

int main() {
  const int64_t large = int64_t{1} << 31;
  Shapes many;
  for (int i = 0; i < 3 * kChunkLayers + 1; ++i) many.push_back({i % 200 + 1, 37 * i + 1});
  const std::vector<Shapes> networks = {
      {{1, 1}},
      {{5, 3}, {64, 27}, {33, 70}, {1, 9}, {7, 1}, {130, 17}},
      {{128, 27}, {128, 1152}, {128, 3}, {128, 1152}, {128, 1152}, {128, 128}, {128, 1152}, {128, 1152}, {1, 128}},
      {{1536, 13824}, {1536, 6912}, {1536, 768}, {768, 6912}, {1000, 1536}, {1, 1536}, {24576, 20}},
      {{3, large + 5}, {large + 7, 2}, {1 << 17, (1 << 16) + 1}},
      {{16385, 16384}, {4096, 16385}, {2, 100000}},
      many,
  };
  for (const Shapes& shapes : networks) {
    for (int multiprocessors : {1, 3, 108, 132, 148, 1000}) check_network(shapes, multiprocessors);
  }

  for (int cols : {1, 3, 7, 8, 27, 64, 224, 225, 255, 256, 257, 1152, 4608, 4617, 9216, 13824, 14336, 16377, 16384}) {
    for (int columns : {8, 28, 32}) {
      const int piece = columns == 8 ? 2 : 4;
      check_columns<1>(cols, columns, piece);
      check_columns<2>(cols, columns, piece);
      check_columns<4>(cols, columns, piece);
      if (columns == 32) check_columns<8>(cols, columns, piece);
    }
  }

  for (int packet : {1, 2, 4, 8}) {
    for (int64_t cols : {1, 3, 8, 27, 1152, 4617, 9216}) {
      if (cols % packet != 0) continue;
      const auto layer = make_layers({{100, cols}})[0];
      for (Part part : {Part{0, 0, 1}, Part{0, 0, 100}, Part{0, 7, 12}}) check_stream(layer, part, packet);
    }
    check_large_stream(make_layers({{3, large + 8}})[0], {0, 1, 3}, packet);
    check_large_stream(make_layers({{large + 8, 8}})[0], {0, large - 100, large + 8}, packet);
  }

  for (int64_t cols : {int64_t{1}, int64_t{2}, int64_t{3}, int64_t{1152}, int64_t{13824}, 3 * large + 1}) {
    for (int64_t step : {int64_t{1}, int64_t{kStreamThreads}, int64_t{4 * kStreamThreads}, large + 1})
      check_places(cols, step);
  }
  for (int64_t size : {0, 1, 3, 8, 9, 27, 64, 255, 256, 1024, 1025, 3072, 4096, 4097, 20000}) {
    for (int64_t count : {0, 1, 2, 7, 300}) {
      for (int64_t blocks : {int64_t{0}, kSampleBlocks}) {
        for (int packet : {1, 2, 4, 8}) {
          if (size % packet == 0) check_samples(count, size, blocks, packet);
        }
      }
    }
  }
  for (int64_t blocks : {int64_t{0}, kSampleBlocks}) {
    check_large_samples(1, 3 * large + 1, blocks);
    check_large_samples(3, large + 5, blocks);
    check_large_samples(large + 7, 2, blocks);
    check_large_samples(int64_t{1} << 20, int64_t{1} << 14, blocks);
  }
  for (int packet : {1, 2, 4, 8}) {
    for (int64_t outer : {0, 1, 7, 300}) {
      for (int64_t channels : {1, 3, 8, 64, 100, 513}) {
        for (int64_t inner : {0, 1, 4, 16, 49, 256, 1023, 5000}) {
          if (outer * channels * inner < 4000000) check_channels({outer, channels, inner}, packet);
        }
      }
    }
    check_channels({20000, 24, 1}, packet);
    check_channels({3, 2, 500000}, packet);
  }
  const std::vector<Channels> large_tensors = {{large + 7, 3, 1},  {3, 5, large + 8}, {2, large + 8, 1},
                                               {1 << 20, 512, 64}, {1, 1, 3 * large}, {70000, 3, 70000}};
  for (const Channels& s : large_tensors) {
    check_channel_of(s);
    for (int packet : {1, 8}) check_large_channels(s, packet);
  }
  for (int64_t channels : {1, 3, 8, 40, 256, 600}) {
    for (int64_t positions : {0, 1, 7, 64, 700}) {
      for (int most : {1, 2, 4, 8}) check_columns(3, channels, positions, most);
    }
  }
  check_large_columns(3, 64, large / 32 + 5);
  check_large_columns(large / 512 + 1, 1024, 3);
  for (bool last : {false, true}) {
    for (int64_t r : {1, 2, 3}) check_shuffle(2, 3, 4, 5, r, last);
    check_shuffle(3, 64, 1 << 13, 1 << 13, 2, last);
  }
  for (int64_t taps : {1, 2, 3, 4, 7, 12, 64}) {
    for (int64_t up : {1, 2, 3, 5, 70}) {
      for (int64_t down : {1, 2, 3, 4, 67}) {
        for (int64_t before : {-3, 0, 1, 5, 70}) {
          const FilterAxis a = make_axis(19, taps, up, down, before, 66), b = make_axis(200, 2, 3, 2, 1, 0);
          check_reach(a);
          for (int64_t inner : {1, 3, 32, 100}) {
            check_resampling(a, b, inner);
            check_resampling(b, a, inner);
            check_resampling(a, a, inner);
          }
        }
      }
    }
  }
  // More pixels than 32 bits count.
  check_resampling(make_axis(2, 4, 2, 1, 2, 1), make_axis(large + 3, 4, 1, 4096, 2, 1), 1);
  check_parts(make_axis(large / 2 + 3, 4, 4, 3000, 2, 1), 64, 1 << 20);
  // As much as the bindings let pass: of what one output reads a tile is made, wherever two are too far apart.
  for (int64_t up : {int64_t{1}, kMaxStep / 2, kMaxStep}) {
    for (int64_t down : {kMaxStep / 8, kMaxStep / 2, kMaxStep}) {
      const FilterAxis absurd = make_axis(up == 1 ? 5 : 1, 4, up, down, large - kMaxStep - 9, 0);
      check_resampling(absurd, make_axis(200, 2, 3, 2, 1, 0), 1);
      check_resampling(make_axis(200, 2, 3, 2, 1, 0), absurd, 32);
    }
  }
  std::puts("every number is met once");
}
