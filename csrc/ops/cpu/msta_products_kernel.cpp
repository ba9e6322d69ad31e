// Products of transformed features with the transformed kernels of a multi-scale layer. The kernels' planes,
// larger than everything else, exist for some output and input channels at a time and never leave the cache.
// Both directions are deterministic for a number of threads.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "../msta_products.h"
#include "rows.h"
#include "waves.h"

namespace avfusion::ops {
namespace {

// Output and input channels, at most, of the kernels that are formed, used and forgotten.
constexpr int64_t OUTPUTS = 32, INPUTS = 128;

// The weights of a branch, and where in a row of all taps its own stand.
template <typename scalar_t>
struct Branch {
  scalar_t* data;  // (outputs, channels, taps)
  std::vector<int64_t> places;

  int64_t count() const {
    return static_cast<int64_t>(places.size());
  }
};

template <typename scalar_t>
std::vector<Branch<scalar_t>> branches(const std::vector<at::Tensor>& weights, at::IntArrayRef taps) {
  std::vector<Branch<scalar_t>> all;
  size_t next = 0;
  for (const at::Tensor& weight : weights) {
    all.push_back({weight.data_ptr<scalar_t>(), {}});
    for (int64_t t = 0; t < weight.size(3); ++t) {
      all.back().places.push_back(taps[next++] + furthest(taps));
    }
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

// Asks for the weights of the next output of these channels, which are too far away to be foreseen.
template <typename scalar_t>
void prefetch(const scalar_t* weights, int64_t count) {
  for (int64_t i = 0; i < count; i += 64 / static_cast<int64_t>(sizeof(scalar_t))) {
    AVFUSION_PREFETCH(weights + i);
  }
}

// Room for LANES channels on their way.
template <typename scalar_t>
struct Room {
  std::vector<scalar_t> taps, weights, planes, scratch;

  explicit Room(const Waves<scalar_t>& waves, int64_t most)
      : taps(waves.taps() * LANES),
        weights(most * LANES),
        planes(waves.planes() * LANES),
        scratch(waves.scratch()) {
  }
};

template <typename scalar_t>
int64_t most_taps(const std::vector<Branch<scalar_t>>& branches) {
  int64_t most = 0;
  for (const Branch<scalar_t>& branch : branches) {
    most = std::max(most, branch.count());
  }
  return most;
}

// Some output and some input channels.
struct Part {
  int64_t first_output, outputs, first_input, inputs, channels;

  // Calls use(weight, place, lanes) for LANES or fewer kernels of an output each: the number of the first
  // among all kernels and within the part.
  template <typename Use>
  void for_each_lanes(const Use& use) const {
    for (int64_t o = 0; o < outputs; ++o) {
      for (int64_t c = 0; c < inputs; c += LANES) {
        use((first_output + o) * channels + first_input + c, o * inputs + c, std::min(LANES, inputs - c));
      }
    }
  }

  int64_t kernels() const {
    return outputs * inputs;
  }
};

// Planes (plane, output, input) of a part's kernels, summed over the branches.
template <typename scalar_t>
void form_planes(const std::vector<Branch<scalar_t>>& branches, const Waves<scalar_t>& waves,
                 const Part& part, Room<scalar_t>& room, scalar_t* out) {
  part.for_each_lanes([&](int64_t weight, int64_t place, int64_t lanes) {
    std::fill(room.taps.begin(), room.taps.end(), scalar_t(0));
    for (const Branch<scalar_t>& branch : branches) {
      const scalar_t* from = branch.data + weight * branch.count();
      prefetch(from + part.channels * branch.count(), lanes * branch.count());
      if (lanes < LANES) {
        std::copy_n(from, lanes * branch.count(), room.weights.data());
        from = room.weights.data();
      }
      add_taps(from, branch.count(), branch.places.data(), room.taps.data());
    }
    if (lanes == LANES) {
      taps_to_planes(waves, room.taps.data(), room.scratch.data(), part.kernels(), out + place);
      return;
    }
    taps_to_planes(waves, room.taps.data(), room.scratch.data(), LANES, room.planes.data());
    for (int64_t p = 0; p < waves.planes(); ++p) {
      std::copy_n(room.planes.data() + p * LANES, lanes, out + p * part.kernels() + place);
    }
  });
}

// The transpose of it: writes gradients of the weights.
template <typename scalar_t>
void form_weights(const scalar_t* planes, const Waves<scalar_t>& waves, const Part& part,
                  Room<scalar_t>& room, const std::vector<Branch<scalar_t>>& branches) {
  part.for_each_lanes([&](int64_t weight, int64_t place, int64_t lanes) {
    if (lanes == LANES) {
      planes_to_taps(waves, planes + place, part.kernels(), room.scratch.data(), room.taps.data());
    } else {
      for (int64_t p = 0; p < waves.planes(); ++p) {
        std::copy_n(planes + p * part.kernels() + place, lanes, room.planes.data() + p * LANES);
      }
      planes_to_taps(waves, room.planes.data(), LANES, room.scratch.data(), room.taps.data());
    }
    for (const Branch<scalar_t>& branch : branches) {
      scalar_t* to = branch.data + weight * branch.count();
      prefetch(to + part.channels * branch.count(), lanes * branch.count());
      pick_taps(room.taps.data(), branch.count(), branch.places.data(),
                lanes == LANES ? to : room.weights.data());
      if (lanes < LANES) {
        std::copy_n(room.weights.data(), lanes * branch.count(), to);
      }
    }
  });
}

// sum = a @ b for every plane, or sum += a @ b
void multiply(at::Tensor& sum, const at::Tensor& a, const at::Tensor& b, bool add) {
  if (add) {
    sum.baddbmm_(a, b);
  } else {
    at::bmm_out(sum, a, b);
  }
}

// Calls use(first, number, buffers) for all of `count` channels in blocks of `most` or fewer, as many blocks
// for every thread. The buffers, of so many numbers, are a thread's own; they are taken here, as memory that
// threads take goes back to the system every time.
template <typename Use>
void for_each_block(int64_t count, int64_t most, at::IntArrayRef numbers, const at::Tensor& like,
                    const Use& use) {
  const int64_t threads = at::get_num_threads(), rounds = (count + most * threads - 1) / (most * threads);
  const int64_t share = (count + rounds * threads - 1) / std::max<int64_t>(1, rounds * threads);
  const int64_t size = std::clamp((share + LANES - 1) / LANES * LANES, LANES, most);
  const int64_t blocks = (count + size - 1) / size;
  std::vector<at::Tensor> buffers;
  for (const int64_t number : numbers) {
    buffers.push_back(at::empty({std::min(threads, blocks), number}, like.options()));
  }
  at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    std::vector<at::Tensor> mine;
    for (const at::Tensor& buffer : buffers) {
      mine.push_back(buffer[at::get_thread_num()]);
    }
    for (int64_t block = begin; block < end; ++block) {
      use(block * size, std::min(size, count - block * size), mine);
    }
  });
}

at::Tensor shaped(const at::Tensor& buffer, int64_t planes, int64_t rows, int64_t columns) {
  return buffer.narrow(0, 0, planes * rows * columns).view({planes, rows, columns});
}

at::Tensor msta_products_cpu(const at::Tensor& planes, at::TensorList weights, at::IntArrayRef taps,
                             int64_t steps) {
  check_products(planes, weights, taps, steps);
  const int64_t count = planes.size(0), channels = planes.size(1), tiles = planes.size(2);
  const int64_t outputs = weights[0].size(0);
  const auto input = planes.contiguous();
  const auto table = contiguous(weights);
  if (channels == 0) {
    return at::zeros({count, outputs, tiles}, planes.options());
  }
  const auto products = at::empty({count, outputs, tiles}, planes.options());
  AT_DISPATCH_FLOATING_TYPES(planes.scalar_type(), "msta_products_cpu", [&] {
    const Waves<scalar_t> waves(steps, furthest(taps));
    const auto all = branches<scalar_t>(table, taps);
    for_each_block(outputs, OUTPUTS, {count * OUTPUTS * INPUTS, count * OUTPUTS * tiles}, input,
                   [&](int64_t first, int64_t number, const std::vector<at::Tensor>& buffers) {
                     Room<scalar_t> room(waves, most_taps(all));
                     auto sum = shaped(buffers[1], count, number, tiles);
                     for (int64_t c = 0; c < channels; c += INPUTS) {
                       const Part part{first, number, c, std::min(INPUTS, channels - c), channels};
                       const auto kernel = shaped(buffers[0], count, number, part.inputs);
                       form_planes(all, waves, part, room, kernel.template mutable_data_ptr<scalar_t>());
                       multiply(sum, kernel, input.narrow(1, c, part.inputs), c > 0);
                     }
                     products.narrow(1, first, number).copy_(sum);
                   });
  });
  return products;
}

std::tuple<at::Tensor, std::vector<at::Tensor>> msta_products_backward_cpu(
    const at::Tensor& grad, const at::Tensor& planes, at::TensorList weights, at::IntArrayRef taps,
    int64_t steps, bool features) {
  check_products(planes, weights, taps, steps);
  const int64_t count = planes.size(0), channels = planes.size(1), tiles = planes.size(2);
  const int64_t outputs = weights[0].size(0);
  TORCH_CHECK(grad.sizes() == at::IntArrayRef({count, outputs, tiles}) &&
                  grad.scalar_type() == planes.scalar_type() && grad.device() == planes.device(),
              "grad must be ", planes.scalar_type(), " (", count, ", ", outputs, ", ", tiles, "), not ",
              grad.sizes());
  const auto input = planes.contiguous(), output = grad.contiguous();
  const auto table = contiguous(weights);
  const auto grad_planes = !features     ? at::empty({0}, planes.options())
                           : outputs > 0 ? at::empty_like(input)
                                         : at::zeros_like(input);
  std::vector<at::Tensor> grad_weights;
  for (const at::Tensor& weight : table) {
    grad_weights.push_back(at::empty_like(weight));
  }
  AT_DISPATCH_FLOATING_TYPES(planes.scalar_type(), "msta_products_backward_cpu", [&] {
    const Waves<scalar_t> waves(steps, furthest(taps));
    const auto all = branches<scalar_t>(table, taps), to = branches<scalar_t>(grad_weights, taps);
    for_each_block(channels, INPUTS, {count * OUTPUTS * INPUTS, count * INPUTS * tiles}, input,
                   [&](int64_t first, int64_t number, const std::vector<at::Tensor>& buffers) {
                     Room<scalar_t> room(waves, most_taps(all));
                     auto sum = shaped(buffers[1], count, number, tiles);
                     const auto block = input.narrow(1, first, number).transpose(1, 2);
                     for (int64_t o = 0; o < outputs; o += OUTPUTS) {
                       const Part part{o, std::min(OUTPUTS, outputs - o), first, number, channels};
                       const auto grad_part = output.narrow(1, o, part.outputs);
                       auto kernel = shaped(buffers[0], count, part.outputs, number);
                       scalar_t* data = kernel.template mutable_data_ptr<scalar_t>();
                       if (features) {
                         form_planes(all, waves, part, room, data);
                         multiply(sum, kernel.transpose(1, 2), grad_part, o > 0);
                       }
                       multiply(kernel, grad_part, block, false);
                       form_weights(data, waves, part, room, to);
                     }
                     if (features && outputs > 0) {
                       grad_planes.narrow(1, first, number).copy_(sum);
                     }
                   });
  });
  return {grad_planes, grad_weights};
}

}  // namespace

TORCH_LIBRARY_IMPL(avfusion, CPU, m) {
  m.impl("msta_products", &msta_products_cpu);
  m.impl("msta_products_backward", &msta_products_backward_cpu);
}

}  // namespace avfusion::ops
