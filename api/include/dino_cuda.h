/*
 * dino_cuda in your own program: features and attention of pictures, from trained DINO vision transformers.
 *
 *     dino_error error;
 *     dino_model* model = NULL;
 *     if (dino_model_open("last.safetensors", NULL, &model, &error) != DINO_OK) die(error.message);
 *     dino_image image = {.pixels = rgb, .height = 480, .width = 640};
 *     size_t width = 0;
 *     dino_feature_width(model, NULL, &width, &error);
 *     float* features = malloc(width * sizeof(float));
 *     dino_features(model, &image, 1, NULL, NULL, features, width, &error);
 *     dino_model_close(model);
 *
 * Rules for all functions:
 * - They return DINO_OK, or another status with one line in error->message; `error` may be NULL. No exception, signal
 *   or exit crosses this border. What a failed call would have written is unspecified.
 * - In every structure of options 0 (or NULL) means the default, and NULL in place of a structure means all defaults.
 *   Set struct_size to sizeof of the structure: members will be added at its end, and programs built before go on
 *   working with newer libraries of the same soname.
 * - There is no global state. A model may be used by several threads: its calls wait for each other. Different models
 *   compute at the same time. Nobody may use what another thread closes.
 * - A model on a GPU leaves that GPU as the calling thread's current CUDA device. Do not use a model in a process that
 *   was forked after it was opened.
 */
#ifndef DINO_CUDA_H_
#define DINO_CUDA_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define DINO_API __attribute__((visibility("default")))
#else
#define DINO_API
#endif

/* ---- What goes wrong ---- */

typedef int32_t dino_status;
enum {
  DINO_OK = 0,
  DINO_INVALID_ARGUMENT = 1, /* a null pointer, a size or an option that makes no sense */
  DINO_BUFFER_TOO_SMALL = 2, /* the message says how many numbers there would be */
  DINO_BAD_WEIGHTS = 3,      /* the file cannot be read, is damaged, or holds another network */
  DINO_BAD_PICTURE = 4,      /* the file cannot be read, or is no whole and sound picture */
  DINO_NO_DEVICE = 5,        /* there is no such device, or it cannot be used */
  DINO_OUT_OF_MEMORY = 6,
  DINO_FAILED = 7 /* anything else */
};

typedef struct dino_error {
  char message[1024]; /* "[where] what; got ..., expected ..., try ...": one line of UTF-8, cut where it is too long;
                         empty after DINO_OK */
} dino_error;

/* "DINO_BAD_WEIGHTS"; "unknown status" for a number that is none. Never NULL. */
DINO_API const char* dino_status_name(dino_status status);

/* The library's version, "0.1.0". */
DINO_API const char* dino_version(void);

/* ---- Models ---- */

typedef struct dino_model dino_model;

enum { DINO_TEACHER = 0, DINO_STUDENT = 1 };
enum { DINO_FP32 = 0, DINO_BF16 = 1 };

typedef struct dino_model_options {
  uint32_t struct_size;
  int32_t threads;    /* of the CPU, for each call; 0: as OMP_NUM_THREADS says, else one per processor */
  const char* device; /* "auto" (the default: the first GPU that can be used, else the CPU), "cpu", "cuda", "cuda:N" */
  int32_t network;    /* DINO_TEACHER or DINO_STUDENT of a checkpoint with both */
  int32_t heads;      /* attention heads, where the file does not say; else its metadata, else width / 64 */
  int32_t precision;  /* DINO_FP32, or DINO_BF16: products in bf16, sums in fp32 */
  int32_t allow_unexpected; /* not 0: tensors that the network has no place for are ignored */
  int32_t batch; /* pictures of the network's native size that are computed at once (fewer larger ones); 0: 32 */
  float gpu_memory_share; /* of the GPU's free memory, taken at once and for as long as the model is open; 0: 0.25 */
} dino_model_options;

/* Opens trained weights: a checkpoint of this program, an official .pth, timm's or Hugging Face's files or folder
 * (docs/weights.md). The architecture is read off the tensors. */
DINO_API dino_status dino_model_open(const char* path, const dino_model_options* options, dino_model** model,
                                     dino_error* error);

/* Takes NULL as well. */
DINO_API void dino_model_close(dino_model* model);

typedef struct dino_model_info {
  uint32_t struct_size;
  int32_t embed_dim; /* C, the width of a token */
  int32_t depth;     /* blocks */
  int32_t heads;     /* H, attention heads of each block */
  int32_t patch_px;  /* side of a patch in pixels */
  int32_t image_px;  /* native side of a picture in pixels */
  int64_t parameters;
} dino_model_info;

/* Fills the members that struct_size, which is the caller's to set, has room for. */
DINO_API dino_status dino_model_describe(const dino_model* model, dino_model_info* info, dino_error* error);

/* "CPU, 8 threads", "NVIDIA H200 (cuda:0), 139 GiB": valid until the model is closed; empty for NULL. */
DINO_API const char* dino_model_device(const dino_model* model);

/* ---- Pictures ---- */

enum {
  DINO_RGB8 = 0, /* 3 bytes a pixel */
  DINO_BGR8 = 1,
  DINO_RGBA8 = 2, /* 4 bytes a pixel; alpha is dropped */
  DINO_BGRA8 = 3,
  DINO_GREY8 = 4,         /* 1 byte a pixel */
  DINO_NORMALIZED_F32 = 5 /* float (3, height, width), red first, in which ImageNet's mean and deviation are taken out:
                             (value/255 - mean)/deviation. Only for DINO_VIEW_AS_IS. */
};

/* Pixels that the caller owns, top row first. They are only read, and only during the call. */
typedef struct dino_image {
  const void* pixels;
  int64_t height, width;    /* pixels */
  int64_t row_stride_bytes; /* from one row to the next; 0: rows lie close together */
  int32_t format;           /* DINO_RGB8, ... */
  int32_t reserved;         /* 0 */
} dino_image;

/* A picture that the library has decoded: JPEG, PNG, GIF (its first frame), BMP, TGA or PNM, turned upright. */
typedef struct dino_picture dino_picture;

DINO_API dino_status dino_picture_open(const char* path, dino_picture** picture, dino_error* error);
DINO_API dino_status dino_picture_decode(const void* bytes, size_t size_bytes, dino_picture** picture,
                                         dino_error* error);
/* The picture's pixels as DINO_RGB8, valid until it is closed. */
DINO_API dino_status dino_picture_image(const dino_picture* picture, dino_image* image, dino_error* error);
/* Takes NULL as well. */
DINO_API void dino_picture_close(dino_picture* picture);

/* How the network gets to see a picture. Bytes are normalised with ImageNet's mean and deviation in every view. */
enum {
  /* Short side resized to short_side_px (bicubic, antialiased), then the central square of crop_px: what
   * `dino_cuda features` and every evaluation does. crop_px 0: the network's native side; short_side_px 0: 256/224 of
   * crop_px. */
  DINO_VIEW_CENTER = 0,
  /* Short side resized to short_side_px (bilinear, antialiased; 0: 480), then cut at the bottom and on the right to
   * multiples of the patch: what `dino_cuda attention` does. */
  DINO_VIEW_WHOLE = 1,
  /* The pixels as they are; both sides must be multiples of the patch. */
  DINO_VIEW_AS_IS = 2
};

typedef struct dino_view {
  uint32_t struct_size;
  int32_t kind; /* DINO_VIEW_CENTER, ... */
  int32_t crop_px, short_side_px;
} dino_view;

/* Rows and columns of the patches that the network sees of this picture. The pixels themselves are not read. */
DINO_API dino_status dino_patch_grid(const dino_model* model, const dino_image* image, const dino_view* view,
                                     int32_t* rows, int32_t* columns, dino_error* error);

/* ---- What the network makes of them ---- */

/* `images` are `count` pictures, at least 1, of any sizes and formats. `capacity` is the room at the output, in numbers
 * (floats). What else is in the batch, and the number of threads, may change results by rounding (the tests allow 2e-6
 * of the length of the features). */

typedef struct dino_feature_options {
  uint32_t struct_size;
  int32_t blocks;          /* the CLS tokens of the last so many blocks side by side, last block last; 0: 1 */
  int32_t average_patches; /* not 0: with one block, the mean of its patch tokens as well: CLS 0, mean 0, CLS 1, ... */
  int32_t raw;             /* not 0: as the network gives them; else each row is brought to length 1 */
} dino_feature_options;

/* Numbers for each picture: C * (blocks + average_patches). */
DINO_API dino_status dino_feature_width(const dino_model* model, const dino_feature_options* options, size_t* width,
                                        dino_error* error);

/* (count, width) numbers, those of one picture behind each other. */
DINO_API dino_status dino_features(dino_model* model, const dino_image* images, size_t count, const dino_view* view,
                                   const dino_feature_options* options, float* features, size_t capacity,
                                   dino_error* error);

/* Patch tokens of the last block after the final norm, not brought to length 1: for each picture (rows, columns, C),
 * with dino_patch_grid()'s rows and columns; the pictures behind each other. */
DINO_API dino_status dino_patch_tokens(dino_model* model, const dino_image* images, size_t count, const dino_view* view,
                                       float* tokens, size_t capacity, dino_error* error);

/* What the CLS token looks at in block `layer` (from 0; negative counts from the end, -1 is the last): for each picture
 * (H, rows, columns), the shares of attention that the patches get. What is missing to 1 goes to CLS itself. */
DINO_API dino_status dino_attention(dino_model* model, const dino_image* images, size_t count, const dino_view* view,
                                    int32_t layer, float* attention, size_t capacity, dino_error* error);

#ifdef __cplusplus
}
#endif

#endif /* DINO_CUDA_H_ */
