// std::shared_ptr reads this variable where the compiler's C library has it, as glibc has from 2.32 on. Defined here, as
// for a program with threads, it is not asked of an older one. Part of both modules.

extern "C" {
__attribute__((visibility("hidden"))) char __libc_single_threaded = 0;
}
