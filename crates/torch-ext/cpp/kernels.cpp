// Every kernel, for the instruction set CLONE.
#include "kernels.h"

#include "kernel_attention.h"
#include "kernel_conv.h"
#include "kernel_norm.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

namespace heldout {
namespace {

template <class T> constexpr Kernels<T> TABLE = {
    attention_scratch<T>,
    attention_forward<T>,
    attention_backward<T>,
    group_forward<T>,
    group_backward<T>,
    modulate_forward<T>,
    modulate_backward<T>,
    gated_forward<T>,
    gated_backward<T>,
    gelu_forward<T>,
    gelu_backward<T>,
};

constexpr ConvKernels CONV = {
    conv_panel, conv_scratch, conv_weights, conv_forward, conv_transform, conv_products, conv_weight_gradient,
};

} // namespace

extern const ConvKernels* const JOIN(conv_, CLONE);
const ConvKernels* const JOIN(conv_, CLONE) = &CONV;
extern const Kernels<float>* const JOIN(f32_, CLONE);
extern const Kernels<double>* const JOIN(f64_, CLONE);
const Kernels<float>* const JOIN(f32_, CLONE) = &TABLE<float>;
const Kernels<double>* const JOIN(f64_, CLONE) = &TABLE<double>;

} // namespace heldout
