// The whole shim as one translation unit: reading libtorch's headers takes most of the compiler's time.
#include "shim.h"

#include "attention.cpp"
#include "conv.cpp"
#include "modulate.cpp"
#include "norm.cpp"
#include "settings.cpp"
#include "shim.cpp"
