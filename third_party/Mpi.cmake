# MPI is for the ranks of a run that its launcher has started. The one part that needs it is a module, libdino_mpi.so, that
# the program opens then and only then. Where there is no MPI, there is no module.
find_package(MPI QUIET COMPONENTS CXX)
set(DINO_MPI_MODULE_FOLDER ${PROJECT_BINARY_DIR}/lib)
set_source_files_properties(engine/communicators/mpi.cpp PROPERTIES COMPILE_DEFINITIONS
  "DINO_MPI_MODULE_FOLDER=\"${DINO_MPI_MODULE_FOLDER}\"")
if(MPI_CXX_FOUND)
  add_library(dino_mpi MODULE engine/communicators/mpi_module/mpi_module.cpp)
  target_link_libraries(dino_mpi PRIVATE dino_options MPI::MPI_CXX)
  # Not MPI's C++ functions, which are gone from its standard.
  target_compile_definitions(dino_mpi PRIVATE OMPI_SKIP_MPICXX MPICH_SKIP_MPICXX)
  set_target_properties(dino_mpi PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${DINO_MPI_MODULE_FOLDER} CXX_VISIBILITY_PRESET hidden)
else()
  message(STATUS "No MPI: runs of several ranks go by TCP and NCCL")
endif()
