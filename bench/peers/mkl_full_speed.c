/* MKL, which PyTorch's products use, keeps its widest kernels for processors that answer these two questions with yes.
   Preloaded, this lets them run everywhere, so that the peer is timed at its best:
     cc -O2 -shared -fPIC mkl_full_speed.c -o mkl_full_speed.so
     LD_PRELOAD=./mkl_full_speed.so python3 torch_step.py fc */
int mkl_serv_intel_cpu(void) { return 1; }
int mkl_serv_intel_cpu_true(void) { return 1; }
