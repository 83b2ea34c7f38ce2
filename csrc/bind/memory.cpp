#include "memory.h"

#include <memory>
#include <utility>

#include "bind.h"

namespace fastgan {
namespace {

using py::literals::operator""_a;

// A tensor as DLPack describes it to the code that takes it over (https://dmlc.github.io/dlpack/latest/c_api.html,
// version 0.x: a capsule "dltensor").
struct DLTensor {
  void* data;
  int32_t device_type, device_id;
  int32_t dimensions;
  uint8_t type_code, bits;
  uint16_t lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};
struct DLManagedTensor {
  DLTensor tensor;
  void* context;
  void (*deleter)(DLManagedTensor*);
};
constexpr int32_t kCpu = 1;
constexpr char kFresh[] = "dltensor";

// The description, with what it points to and the block that the tensor holds.
struct Output {
  Sizes shape, strides;
  Block block;
  DLManagedTensor managed;
};

// A capsule for torch.from_dlpack: an uninitialised tensor on a block of its own, contiguous where strides are empty.
py::capsule empty_block(Sizes shape, Sizes strides, uint8_t type_code, uint8_t bits, size_t bytes) {
  auto out = std::unique_ptr<Output>(new Output{std::move(shape), std::move(strides), Block(bytes), {}});
  DLTensor& t = out->managed.tensor;
  const auto dimensions = static_cast<int32_t>(out->shape.size());
  int64_t* const steps = out->strides.empty() ? nullptr : out->strides.data();
  t = {out->block.data(), kCpu, 0, dimensions, type_code, bits, 1, out->shape.data(), steps, 0};
  out->managed.context = out.get();
  out->managed.deleter = [](DLManagedTensor* m) { delete static_cast<Output*>(m->context); };
  // The code that takes the tensor over renames the capsule, and calls the deleter.
  const auto forget = [](PyObject* capsule) {
    if (!PyCapsule_IsValid(capsule, kFresh)) return;
    auto* managed = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule, kFresh));
    managed->deleter(managed);
  };
  py::capsule capsule(&out->managed, kFresh, forget);
  out.release();
  return capsule;
}

void bind(py::module_& m) {
  m.def("empty_block", empty_block);
  m.def("block_bytes", [] {
    const BlockBytes bytes = block_bytes();
    return py::dict("free"_a = bytes.free, "used"_a = bytes.used);
  });
  m.def("forget_free_blocks", forget_free_blocks);
}

const Binding binding(bind, nullptr);

}  // namespace
}  // namespace fastgan
