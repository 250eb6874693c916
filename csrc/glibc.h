#pragma once

// Wheels are for glibc from 2.28 on, but may be built with a newer one, whose exp has a newer version: the older differs
// only in what it does about errno.

#include <cmath>

#if defined(__GLIBC__) && defined(__x86_64__)
__asm__(".symver exp,exp@GLIBC_2.2.5");
#endif
