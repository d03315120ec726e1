# DINO_HAS_CUDA: whether CUDA kernels are compiled. Machines without the toolkit build everything else.
set(DINO_HAS_CUDA OFF)
# Machine code for A100 and H100/H200, and PTX, from which drivers make code for later cards.
set(DINO_CUDA_ARCHITECTURES 80-real 90-real 90-virtual CACHE STRING "Cards that kernels are compiled for, as CMAKE_CUDA_ARCHITECTURES says it")
set(CMAKE_CUDA_ARCHITECTURES ${DINO_CUDA_ARCHITECTURES})
if(NOT DINO_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    set(DINO_HAS_CUDA ON)
    # CMake 3.25 does not know that CUDA 13 speaks C++20.
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
    find_package(CUDAToolkit REQUIRED)
  elseif(DINO_CUDA STREQUAL "ON")
    message(FATAL_ERROR "DINO_CUDA is ON, and there is no CUDA compiler: put nvcc on the PATH, or leave DINO_CUDA at AUTO")
  else()
    message(STATUS "No CUDA toolkit: the CUDA kernels are left out")
  endif()
endif()

# DINO_HAS_NCCL: whether GPUs can be connected. NCCL lies beside the toolkit; it is opened when a run has several GPUs.
set(DINO_HAS_NCCL OFF)
if(DINO_HAS_CUDA)
  find_path(DINO_NCCL_INCLUDE nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
  if(DINO_NCCL_INCLUDE)
    set(DINO_HAS_NCCL ON)
  else()
    message(STATUS "No NCCL: runs on several GPUs go by TCP, which is slow")
  endif()
endif()

# DINO_HAS_CUDNN: whether `dino_cuda bench` can compare with cuDNN, which it opens when it runs on a GPU.
set(DINO_HAS_CUDNN OFF)
if(DINO_HAS_CUDA)
  find_path(DINO_CUDNN_INCLUDE cudnn_graph.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
  if(DINO_CUDNN_INCLUDE)
    set(DINO_HAS_CUDNN ON)
  else()
    message(STATUS "No cuDNN 9: the benchmarks on a GPU go without it")
  endif()
endif()

# What every CUDA target has in common. Spills to local memory are errors, as are all warnings.
add_library(dino_cuda_options INTERFACE)
target_include_directories(dino_cuda_options INTERFACE ${PROJECT_SOURCE_DIR})
target_link_libraries(dino_cuda_options INTERFACE fmt::fmt)
target_compile_options(dino_cuda_options INTERFACE
  "$<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr;--Werror=all-warnings;-Xptxas=--warn-on-spills,--warning-as-error>"
  "$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Werror>")
# fmt takes nvcc for a compiler without constexpr, of half of which it then makes use.
target_compile_definitions(dino_cuda_options INTERFACE FMT_USE_CONSTEXPR=1)

# What a program needs in which CUDA objects are linked. The runtime is linked into it and asks for the driver at run
# time; cuBLASLt, half a gigabyte, is loaded at run time (kernels/common/cuda/cublas_lt_library.cpp) from lib/ beside the
# program or from this toolkit. So the program starts on every machine.
add_library(dino_cuda_runtime INTERFACE)
if(DINO_HAS_CUDA)
  target_include_directories(dino_cuda_options SYSTEM INTERFACE ${CUDAToolkit_INCLUDE_DIRS})
  target_link_libraries(dino_cuda_runtime INTERFACE CUDA::cudart_static ${CMAKE_DL_LIBS})
  set(CMAKE_BUILD_RPATH "$ORIGIN/lib;${CUDAToolkit_LIBRARY_DIR}")
  set(CMAKE_INSTALL_RPATH "$ORIGIN/lib;${CUDAToolkit_LIBRARY_DIR}")
  # RPATH and not RUNPATH: also for what the libraries in lib/ ask for.
  target_link_options(dino_cuda_runtime INTERFACE LINKER:--disable-new-dtags)
endif()
