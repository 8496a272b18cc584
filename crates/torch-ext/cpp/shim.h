// What the files of the shim share: errors as strings, and gradients that can be differentiated again.
#pragma once

#include "kernels.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <vector>

namespace heldout {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// A copy of the message on C's heap, which the caller frees with `heldout_free`.
char* message(const char* text);

/// Runs `f`; the message of what it threw, or null.
template <class F> char* guarded(F&& f) noexcept {
  try {
    f();
    return nullptr;
  } catch (const c10::Error& e) {
    return message(e.what_without_backtrace());
  } catch (const std::exception& e) {
    return message(e.what());
  } catch (...) {
    return message("an exception of unknown type");
  }
}

/// Whether an operation on these must be recorded.
inline bool recorded(std::initializer_list<Tensor> inputs) {
  if (!at::GradMode::is_enabled()) return false;
  for (const auto& t : inputs)
    if (t.defined() && t.requires_grad()) return true;
  return false;
}

/// f32 or f64 in the memory of the CPU.
inline bool plain(const Tensor& t) {
  return t.device().is_cpu() && t.layout() == at::kStrided && (t.scalar_type() == at::kFloat || t.scalar_type() == at::kDouble);
}

/// An operation takes a tensor that may be missing in this form.
inline std::optional<Tensor> optional(const Tensor& t) { return t.defined() ? std::optional<Tensor>(t) : std::nullopt; }

/// The gradients of `compose(inputs)` from that of its result, themselves recorded: for a backward pass with
/// `create_graph`, which a kernel of ours has no derivative for.
template <class F> variable_list composed_gradients(const variable_list& inputs, const Tensor& dy, F&& compose) {
  at::AutoGradMode recording(true);
  variable_list aliases, wanted;
  for (const auto& t : inputs) {
    aliases.push_back(t.defined() ? t.view_as(t) : t);
    if (t.defined() && t.requires_grad()) wanted.push_back(aliases.back());
  }
  const auto found = torch::autograd::grad({compose(aliases)}, wanted, {dy}, /*retain_graph=*/true,
                                           /*create_graph=*/true, /*allow_unused=*/true);
  variable_list gradients(inputs.size());
  for (size_t i = 0, next = 0; i < inputs.size(); i++)
    if (inputs[i].defined() && inputs[i].requires_grad()) gradients[i] = found[next++];
  return gradients;
}

/// At least one thread's worth of work, in numbers touched.
constexpr int64_t GRAIN = 16384;

} // namespace heldout
