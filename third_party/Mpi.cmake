# MPI is for the ranks of a run that its launcher has started. The one part that needs it is a module, libdino_mpi.so, that
# the program opens then and only then: the installed one from its place beside it, which may be moved, the built one from
# the build folder. Where there is no MPI, there is no module.
find_package(MPI QUIET COMPONENTS CXX)
set(DINO_MPI_MODULE_FOLDER ${PROJECT_BINARY_DIR}/lib)
set(DINO_MPI_INSTALL_FOLDER ${CMAKE_INSTALL_FULL_LIBDIR}/dino_cuda)
cmake_path(RELATIVE_PATH DINO_MPI_INSTALL_FOLDER BASE_DIRECTORY ${CMAKE_INSTALL_FULL_BINDIR} OUTPUT_VARIABLE
  DINO_MPI_FROM_PROGRAM)
set_source_files_properties(engine/communicators/mpi.cpp PROPERTIES COMPILE_DEFINITIONS
  "DINO_MPI_MODULE_FOLDER=\"${DINO_MPI_MODULE_FOLDER}\";DINO_MPI_FROM_PROGRAM=\"${DINO_MPI_FROM_PROGRAM}\"")
if(MPI_CXX_FOUND)
  add_library(dino_mpi MODULE engine/communicators/mpi_module/mpi_module.cpp)
  target_link_libraries(dino_mpi PRIVATE dino_options MPI::MPI_CXX)
  # Not MPI's C++ functions, which are gone from its standard.
  target_compile_definitions(dino_mpi PRIVATE OMPI_SKIP_MPICXX MPICH_SKIP_MPICXX)
  # An MPI outside of the system's folders is found where it was when the module was linked.
  set_target_properties(dino_mpi PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${DINO_MPI_MODULE_FOLDER} CXX_VISIBILITY_PRESET hidden
    INSTALL_RPATH_USE_LINK_PATH ON)
  install(TARGETS dino_mpi LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/dino_cuda)
else()
  message(STATUS "No MPI: runs of several ranks go by TCP and NCCL")
endif()
