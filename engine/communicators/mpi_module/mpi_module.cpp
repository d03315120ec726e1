// libdino_mpi.so: the only part that is compiled and linked with MPI.
#include "engine/communicators/mpi_module.h"

#include <mpi.h>

namespace {

MPI_Request request = MPI_REQUEST_NULL;
char message[MPI_MAX_ERROR_STRING + 1];

const char* checked(int status) {
  if (status == MPI_SUCCESS) return nullptr;
  int length = 0;
  if (MPI_Error_string(status, message, &length) != MPI_SUCCESS) return "an unknown error";
  message[length] = '\0';
  return message;
}

const char* open_world(int* rank, int* size) {
  int done = 0;
  MPI_Initialized(&done);
  if (done == 0) {
    int provided = 0;
    // Only the main thread calls MPI; there are others.
    if (const char* error = checked(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided))) return error;
  }
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  if (const char* error = checked(MPI_Comm_rank(MPI_COMM_WORLD, rank))) return error;
  return checked(MPI_Comm_size(MPI_COMM_WORLD, size));
}

const char* all_to_all(const void* out, const int* out_counts, const int* out_offsets, void* in, const int* in_counts,
                       const int* in_offsets) {
  return checked(MPI_Ialltoallv(out, out_counts, out_offsets, MPI_BYTE, in, in_counts, in_offsets, MPI_BYTE,
                                MPI_COMM_WORLD, &request));
}

const char* all_gather(const void* out, int count, void* in, const int* in_counts, const int* in_offsets) {
  return checked(MPI_Iallgatherv(out, count, MPI_BYTE, in, in_counts, in_offsets, MPI_BYTE, MPI_COMM_WORLD, &request));
}

const char* broadcast(void* values, int count, int root) {
  return checked(MPI_Ibcast(values, count, MPI_BYTE, root, MPI_COMM_WORLD, &request));
}

const char* barrier() { return checked(MPI_Ibarrier(MPI_COMM_WORLD, &request)); }

const char* test(int* done) { return checked(MPI_Test(&request, done, MPI_STATUS_IGNORE)); }

void close_world() {
  int done = 0;
  MPI_Finalized(&done);
  if (done == 0) MPI_Finalize();
}

const DinoMpi kModule = {open_world, all_to_all, all_gather, broadcast, barrier, test, close_world};

}  // namespace

extern "C" __attribute__((visibility("default"))) const DinoMpi* dino_mpi_module(void) { return &kModule; }
