from unlearnable_kernels.cli import main

main()
