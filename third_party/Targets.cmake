# What every target of ours has in common.
add_library(dino_options INTERFACE)
target_compile_options(dino_options INTERFACE -Wall -Wextra -Werror -fno-math-errno)
target_include_directories(dino_options INTERFACE ${PROJECT_SOURCE_DIR})
# Each SIMD source is compiled for AVX-512, AVX2 and plain C++; the best one is chosen at run time.
target_compile_definitions(dino_options INTERFACE
  "HWY_DISABLED_TARGETS=(HWY_SSSE3|HWY_SSE4|HWY_AVX3_DL|(1LL<<6)|(1LL<<5)|(1LL<<4))"
  $<$<CONFIG:Debug>:_GLIBCXX_ASSERTIONS>)
if(DINO_SANITIZE)
  target_compile_options(dino_options INTERFACE -fsanitize=${DINO_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(dino_options INTERFACE -fsanitize=${DINO_SANITIZE})
endif()

# The libraries depend on each other in one direction only: each may use itself and those to its left.
set(DINO_LIBRARY_ORDER kernels engine models data train evaluate visualize selftest)
set(DINO_LIBRARY_DEPENDENCIES_kernels OpenMP::OpenMP_CXX DNNL::dnnl hwy fmt::fmt)
set(DINO_LIBRARY_DEPENDENCIES_engine dino_kernels Threads::Threads)
set(DINO_LIBRARY_DEPENDENCIES_models dino_engine nlohmann_json::nlohmann_json PkgConfig::libzip)
set(DINO_LIBRARY_DEPENDENCIES_data dino_models JPEG::JPEG PNG::PNG ZLIB::ZLIB PkgConfig::stb PkgConfig::libarchive
  PkgConfig::libmd)
set(DINO_LIBRARY_DEPENDENCIES_train dino_data tomlplusplus::tomlplusplus)
set(DINO_LIBRARY_DEPENDENCIES_evaluate dino_train)
set(DINO_LIBRARY_DEPENDENCIES_visualize dino_evaluate)
set(DINO_LIBRARY_DEPENDENCIES_selftest dino_train)

# dino_add_library(NAME): every source of the folder NAME as the library dino_NAME.
function(dino_add_library name)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${name}/*.cpp)
  list(FILTER sources EXCLUDE REGEX "_cuda\\.cpp$")  # they need the toolkit, and are linked as objects
  list(FILTER sources EXCLUDE REGEX "/mpi_module/")  # third_party/Mpi.cmake
  if(sources)
    add_library(dino_${name} STATIC ${sources})
    target_link_libraries(dino_${name} PUBLIC dino_options ${DINO_LIBRARY_DEPENDENCIES_${name}})
  else()
    add_library(dino_${name} INTERFACE)
    target_link_libraries(dino_${name} INTERFACE dino_options ${DINO_LIBRARY_DEPENDENCIES_${name}})
  endif()
endfunction()
