// Products of transformed features with the transformed kernels of a multi-scale layer. The kernels' planes,
// larger than everything else, exist for a slice of output channels at a time, one in every thread. Both
// directions are deterministic for a number of threads.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "../msta.h"
#include "waves.h"

namespace avfusion::ops {
namespace {

constexpr int64_t SLICE = 32;  // output channels whose planes are formed, used and forgotten

// The branches' weights, side by side.
template <typename scalar_t>
struct Branch {
  scalar_t* data;  // (outputs, channels, count)
  int64_t count;
  const int64_t* taps;
};

template <typename scalar_t>
std::vector<Branch<scalar_t>> branches(const std::vector<at::Tensor>& weights, at::IntArrayRef taps) {
  std::vector<Branch<scalar_t>> all;
  const int64_t* next = taps.data();
  for (const at::Tensor& weight : weights) {
    all.push_back({weight.data_ptr<scalar_t>(), weight.size(3), next});
    next += weight.size(3);
  }
  return all;
}

std::vector<at::Tensor> contiguous(at::TensorList tensors) {
  std::vector<at::Tensor> all;
  for (const at::Tensor& tensor : tensors) {
    all.push_back(tensor.contiguous());
  }
  return all;
}

// Room for LANES channels on their way.
template <typename scalar_t>
struct Room {
  std::vector<scalar_t> taps, planes, scratch;

  explicit Room(const Waves<scalar_t>& waves)
      : taps(waves.taps() * LANES), planes(waves.planes() * LANES), scratch(waves.scratch()) {
  }
};

// Planes (plane, output, channel) of the kernels of outputs [first, last), summed over the branches.
template <typename scalar_t>
void form_planes(const std::vector<Branch<scalar_t>>& branches, const Waves<scalar_t>& waves, int64_t first,
                 int64_t last, int64_t channels, scalar_t* out) {
  Room<scalar_t> room(waves);
  const int64_t stride = (last - first) * channels;
  for (int64_t place = 0; place < stride; place += LANES) {
    const int64_t lanes = std::min(LANES, stride - place);
    std::fill(room.taps.begin(), room.taps.end(), scalar_t(0));
    for (const Branch<scalar_t>& branch : branches) {
      const scalar_t* from = branch.data + (first * channels + place) * branch.count;
      for (int64_t t = 0; t < branch.count; ++t) {
        scalar_t* to = room.taps.data() + (branch.taps[t] + waves.reach) * LANES;
        for (int64_t l = 0; l < lanes; ++l) {
          to[l] += from[l * branch.count + t];
        }
      }
    }
    if (lanes == LANES) {
      taps_to_planes(waves, room.taps.data(), room.scratch.data(), stride, out + place);
      continue;
    }
    taps_to_planes(waves, room.taps.data(), room.scratch.data(), LANES, room.planes.data());
    for (int64_t p = 0; p < waves.planes(); ++p) {
      std::copy_n(room.planes.data() + p * LANES, lanes, out + p * stride + place);
    }
  }
}

// The transpose of it: writes gradients of the weights of outputs [first, last).
template <typename scalar_t>
void form_weights(const scalar_t* planes, const Waves<scalar_t>& waves, int64_t first, int64_t last,
                  int64_t channels, const std::vector<Branch<scalar_t>>& branches) {
  Room<scalar_t> room(waves);
  const int64_t stride = (last - first) * channels;
  for (int64_t place = 0; place < stride; place += LANES) {
    const int64_t lanes = std::min(LANES, stride - place);
    if (lanes == LANES) {
      planes_to_taps(waves, planes + place, stride, room.scratch.data(), room.taps.data());
    } else {
      for (int64_t p = 0; p < waves.planes(); ++p) {
        std::copy_n(planes + p * stride + place, lanes, room.planes.data() + p * LANES);
      }
      planes_to_taps(waves, room.planes.data(), LANES, room.scratch.data(), room.taps.data());
    }
    for (const Branch<scalar_t>& branch : branches) {
      scalar_t* to = branch.data + (first * channels + place) * branch.count;
      for (int64_t t = 0; t < branch.count; ++t) {
        const scalar_t* from = room.taps.data() + (branch.taps[t] + waves.reach) * LANES;
        for (int64_t l = 0; l < lanes; ++l) {
          to[l * branch.count + t] = from[l];
        }
      }
    }
  }
}

// Calls use(first, last, room, thread) for all slices of output channels, where `room` is (planes, last -
// first, channels). A thread has always the same slices.
template <typename Use>
void for_each_slice(int64_t outputs, const at::Tensor& planes, const Use& use) {
  at::parallel_for(0, (outputs + SLICE - 1) / SLICE, 1, [&](int64_t begin, int64_t end) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const int64_t count = planes.size(0), channels = planes.size(1);
    const auto room = at::empty({count * SLICE * channels}, planes.options());
    for (int64_t slice = begin; slice < end; ++slice) {
      const int64_t first = slice * SLICE, last = std::min(outputs, first + SLICE), size = last - first;
      use(first, last, room.narrow(0, 0, count * size * channels).view({count, size, channels}),
          at::get_thread_num());
    }
  });
}

at::Tensor msta_products_cpu(const at::Tensor& planes, at::TensorList weights, at::IntArrayRef taps,
                             int64_t steps) {
  check_products(planes, weights, taps, steps);
  const int64_t channels = planes.size(1), outputs = weights[0].size(0);
  const auto input = planes.contiguous();
  const auto table = contiguous(weights);
  const auto products = at::empty({planes.size(0), outputs, planes.size(2)}, planes.options());
  AT_DISPATCH_FLOATING_TYPES(planes.scalar_type(), "msta_products_cpu", [&] {
    const Waves<scalar_t> waves(steps, furthest(taps));
    const auto all = branches<scalar_t>(table, taps);
    for_each_slice(outputs, input, [&](int64_t first, int64_t last, at::Tensor kernel, int64_t) {
      form_planes(all, waves, first, last, channels, kernel.mutable_data_ptr<scalar_t>());
      auto part = products.narrow(1, first, last - first);
      at::bmm_out(part, kernel, input);
    });
  });
  return products;
}

std::tuple<at::Tensor, std::vector<at::Tensor>> msta_products_backward_cpu(
    const at::Tensor& grad, const at::Tensor& planes, at::TensorList weights, at::IntArrayRef taps,
    int64_t steps, bool features) {
  check_products(planes, weights, taps, steps);
  const int64_t channels = planes.size(1), outputs = weights[0].size(0);
  TORCH_CHECK(grad.sizes() == at::IntArrayRef({planes.size(0), outputs, planes.size(2)}) &&
                  grad.scalar_type() == planes.scalar_type() && grad.device() == planes.device(),
              "grad must be ", planes.scalar_type(), " (", planes.size(0), ", ", outputs, ", ",
              planes.size(2), "), not ", grad.sizes());
  const auto input = planes.contiguous(), output = grad.contiguous();
  const auto table = contiguous(weights);
  std::vector<at::Tensor> grad_weights, sums(at::get_num_threads());
  for (const at::Tensor& weight : table) {
    grad_weights.push_back(at::empty_like(weight));
  }
  AT_DISPATCH_FLOATING_TYPES(planes.scalar_type(), "msta_products_backward_cpu", [&] {
    const Waves<scalar_t> waves(steps, furthest(taps));
    const auto all = branches<scalar_t>(table, taps), to = branches<scalar_t>(grad_weights, taps);
    for_each_slice(outputs, input, [&](int64_t first, int64_t last, at::Tensor kernel, int64_t thread) {
      const auto part = output.narrow(1, first, last - first);
      scalar_t* data = kernel.mutable_data_ptr<scalar_t>();
      if (features) {
        form_planes(all, waves, first, last, channels, data);
        at::Tensor& sum = sums[thread];
        if (sum.defined()) {
          sum.baddbmm_(kernel.transpose(1, 2), part);
        } else {
          sum = at::bmm(kernel.transpose(1, 2), part);
        }
      }
      at::bmm_out(kernel, part, input.transpose(1, 2));
      form_weights(data, waves, first, last, channels, to);
    });
  });
  at::Tensor grad_planes = features ? at::Tensor() : at::empty({0}, planes.options());
  for (const at::Tensor& sum : sums) {  // in the order of the threads
    if (sum.defined()) {
      grad_planes = grad_planes.defined() ? grad_planes.add_(sum) : sum;
    }
  }
  return {grad_planes.defined() ? grad_planes : at::zeros_like(input), grad_weights};
}

}  // namespace

TORCH_LIBRARY_IMPL(avfusion, CPU, m) {
  m.impl("msta_products", &msta_products_cpu);
  m.impl("msta_products_backward", &msta_products_backward_cpu);
}

}  // namespace avfusion::ops
