#pragma once

// A plain loop compiled for several instruction sets. The loader chooses among clones, which the address sanitizer does
// not survive.
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && defined(__GNUC__) && !defined(__clang__)
#define UNLEARN_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define UNLEARN_CLONES
#endif
