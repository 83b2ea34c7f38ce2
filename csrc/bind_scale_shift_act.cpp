// Python's table of the ops on channels.
#include "bind.h"
#include "pixel_shuffle_act.h"
#include "scale_shift_act.h"

namespace fastgan {

FASTGAN_DECLARE_CPU(int64_t channel_workspace(int64_t, int64_t, int64_t, bool);        //
                    void channel_statistics(const ChannelStatistics&, int);            //
                    void scale_shift_act(const ScaleShiftAct&, int);                   //
                    void scale_shift_act_backward(const ScaleShiftActBackward&, int);  //
                    int64_t norm_act_workspace(int64_t, int64_t, int64_t, bool);       //
                    void norm_act(const NormAct&, int);                                //
                    void norm_act_backward(const NormActBackward&, int);               //
                    void pixel_shuffle_act(const PixelShuffleAct&, int);)

#ifdef FASTGAN_WITH_CUDA
namespace cuda {
int64_t channel_workspace(int64_t, int64_t, int64_t, bool);
void channel_statistics(const ChannelStatistics&, cudaStream_t);
void scale_shift_act(const ScaleShiftAct&, cudaStream_t);
void scale_shift_act_backward(const ScaleShiftActBackward&, cudaStream_t);
void pixel_shuffle_act(const PixelShuffleAct&, cudaStream_t);
}  // namespace cuda
#endif

namespace {

ChannelLayout layout(int64_t count, int64_t channels, int64_t positions, bool last, int dtype) {
  check_sizes("x", {count, channels, positions});
  return {count, channels, positions, last, DType(dtype)};
}

// The query of a workspace, after its sizes were checked.
template <typename Workspace>
auto checked(Workspace size) {
  return [=](int64_t count, int64_t channels, int64_t positions, bool last) {
    check_sizes("x", {count, channels, positions});
    return size(count, channels, positions, last);
  };
}

template <typename Execution, typename Workspace, typename Statistics, typename Forward, typename Backward,
          typename Shuffle>
void bind(py::module_& m, Workspace workspace_size, Statistics statistics, Forward forward, Backward backward,
          Shuffle shuffle) {
  m.def("channel_workspace", checked(workspace_size));
  m.def("channel_statistics",
        [=](uintptr_t x, uintptr_t mean, uintptr_t var, uintptr_t workspace, bool per_sample, int64_t count,
            int64_t channels, int64_t positions, bool last, int dtype, Execution execution) {
          py::gil_scoped_release release;
          const ChannelLayout shape = layout(count, channels, positions, last, dtype);
          statistics(ChannelStatistics{pointer(x), pointer(mean), pointer(var), pointer(workspace), shape, per_sample},
                     execution);
        });
  // An address of numbers per channel is followed by their stride.
  m.def("scale_shift_act",
        [=](uintptr_t x, uintptr_t y, uintptr_t scale, int64_t scale_stride, uintptr_t shift, int64_t shift_stride,
            uintptr_t center, int64_t center_stride, int act, double alpha, int64_t count, int64_t channels,
            int64_t positions, bool last, int dtype, Execution execution) {
          py::gil_scoped_release release;
          const ChannelLayout shape = layout(count, channels, positions, last, dtype);
          const Affine affine{{pointer(scale), scale_stride},
                              {pointer(shift), shift_stride},
                              {pointer(center), center_stride},
                              Activation(act),
                              alpha};
          forward(ScaleShiftAct{pointer(x), pointer(y), shape, affine}, execution);
        });
  m.def("scale_shift_act_backward",
        [=](uintptr_t dy, uintptr_t x, uintptr_t dx, uintptr_t dscale, uintptr_t dshift, uintptr_t workspace,
            bool per_sample, uintptr_t linear, int64_t linear_stride, uintptr_t constant, int64_t constant_stride,
            uintptr_t scale, int64_t scale_stride, uintptr_t shift, int64_t shift_stride, uintptr_t center,
            int64_t center_stride, int act, double alpha, int64_t count, int64_t channels, int64_t positions, bool last,
            int dtype, Execution execution) {
          py::gil_scoped_release release;
          const ChannelLayout shape = layout(count, channels, positions, last, dtype);
          const Affine affine{{pointer(scale), scale_stride},
                              {pointer(shift), shift_stride},
                              {pointer(center), center_stride},
                              Activation(act),
                              alpha};
          backward(ScaleShiftActBackward{pointer(dy),
                                         pointer(x),
                                         pointer(dx),
                                         pointer(dscale),
                                         pointer(dshift),
                                         pointer(workspace),
                                         per_sample,
                                         shape,
                                         affine,
                                         {pointer(linear), linear_stride},
                                         {pointer(constant), constant_stride}},
                   execution);
        });
  m.def("pixel_shuffle_act",
        [=](uintptr_t dy, uintptr_t x, uintptr_t bias, uintptr_t out, int64_t factor, int act, double alpha,
            int64_t count, int64_t channels, int64_t height, int64_t width, bool last, int dtype, Execution execution) {
          py::gil_scoped_release release;
          if (factor < 1 || factor > kMostFactor) throw std::runtime_error("upscale_factor must be from 1 to 16");
          check_sizes("x", {count, channels, factor, factor, height, width});
          shuffle(PixelShuffleAct{pointer(dy), pointer(x), pointer(bias), pointer(out), factor, count, channels, height,
                                  width, last, Activation(act), alpha, DType(dtype)},
                  execution);
        });
}

// Normalization as a whole, which CUDA does in several calls.
template <typename Forward, typename Backward>
void bind_norm_act(py::module_& m, Forward forward, Backward backward) {
  m.def("norm_act_workspace", checked(cpu::base::norm_act_workspace));
  m.def("norm_act",
        [=](uintptr_t x, uintptr_t y, uintptr_t mean, uintptr_t var, uintptr_t workspace, uintptr_t weight,
            int64_t weight_stride, uintptr_t bias, int64_t bias_stride, bool per_sample, double eps, int act,
            double alpha, int64_t count, int64_t channels, int64_t positions, bool last, int dtype, int threads) {
          py::gil_scoped_release release;
          const ChannelLayout shape = layout(count, channels, positions, last, dtype);
          forward(NormAct{pointer(x),
                          pointer(y),
                          pointer(mean),
                          pointer(var),
                          pointer(workspace),
                          shape,
                          per_sample,
                          {pointer(weight), weight_stride},
                          {pointer(bias), bias_stride},
                          eps,
                          Activation(act),
                          alpha},
                  threads);
        });
  m.def("norm_act_backward",
        [=](uintptr_t dy, uintptr_t x, uintptr_t mean, uintptr_t var, uintptr_t dx, uintptr_t dweight, uintptr_t dbias,
            uintptr_t workspace, uintptr_t weight, int64_t weight_stride, uintptr_t bias, int64_t bias_stride,
            bool per_sample, double eps, int act, double alpha, int64_t count, int64_t channels, int64_t positions,
            bool last, int dtype, int threads) {
          py::gil_scoped_release release;
          const ChannelLayout shape = layout(count, channels, positions, last, dtype);
          backward(NormActBackward{pointer(dy),
                                   pointer(x),
                                   pointer(mean),
                                   pointer(var),
                                   pointer(dx),
                                   pointer(dweight),
                                   pointer(dbias),
                                   pointer(workspace),
                                   shape,
                                   per_sample,
                                   {pointer(weight), weight_stride},
                                   {pointer(bias), bias_stride},
                                   eps,
                                   Activation(act),
                                   alpha},
                   threads);
        });
}

}  // namespace

void bind_scale_shift_act(py::module_& cpu, py::module_* cuda) {
  bind<int>(cpu, cpu::base::channel_workspace, FASTGAN_CPU(channel_statistics), FASTGAN_CPU(scale_shift_act),
            FASTGAN_CPU(scale_shift_act_backward), FASTGAN_CPU(pixel_shuffle_act));
  bind_norm_act(cpu, FASTGAN_CPU(norm_act), FASTGAN_CPU(norm_act_backward));
#ifdef FASTGAN_WITH_CUDA
  bind<uintptr_t>(*cuda, cuda::channel_workspace, FASTGAN_CUDA(channel_statistics), FASTGAN_CUDA(scale_shift_act),
                  FASTGAN_CUDA(scale_shift_act_backward), FASTGAN_CUDA(pixel_shuffle_act));
#endif
}

}  // namespace fastgan
