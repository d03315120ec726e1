/* How alike do two pictures look to a network? The cosine of their features.
 *
 *     ./similarity last.safetensors cat.jpg other_cat.jpg
 *     ./similarity last.safetensors cat.jpg other_cat.jpg features.csv      and the features themselves
 */
#include <dino_cuda.h>

#include <stdio.h>
#include <stdlib.h>

static void check(dino_status status, const dino_error* error) {
  if (status == DINO_OK) return;
  fprintf(stderr, "%s: %s\n", dino_status_name(status), error->message);
  exit(1);
}

static void write_csv(const char* path, const float* features, size_t count, size_t width) {
  FILE* file = fopen(path, "w");
  size_t i;
  if (file == NULL) {
    perror(path);
    exit(1);
  }
  for (i = 0; i < count * width; ++i) fprintf(file, "%.9g%c", features[i], (i + 1) % width == 0 ? '\n' : ',');
  if (fclose(file) != 0) {
    perror(path);
    exit(1);
  }
}

int main(int argc, char** argv) {
  dino_error error;
  dino_model* model = NULL;
  dino_picture* pictures[2] = {NULL, NULL};
  dino_image images[2];
  float* features = NULL;
  size_t width = 0, i;
  double cosine = 0;

  if (argc < 4) {
    fprintf(stderr, "usage: similarity WEIGHTS PICTURE PICTURE [FEATURES.csv]\n");
    return 2;
  }
  check(dino_model_open(argv[1], NULL, &model, &error), &error);
  for (i = 0; i < 2; ++i) {
    check(dino_picture_open(argv[2 + i], &pictures[i], &error), &error);
    check(dino_picture_image(pictures[i], &images[i], &error), &error);
  }

  check(dino_feature_width(model, NULL, &width, &error), &error);
  features = malloc(2 * width * sizeof *features);
  if (features == NULL) return 1;
  check(dino_features(model, images, 2, NULL, NULL, features, 2 * width, &error), &error);

  /* Both have length 1. */
  for (i = 0; i < width; ++i) cosine += (double)features[i] * features[width + i];
  printf("%s\n%.6f\n", dino_model_device(model), cosine);
  if (argc > 4) write_csv(argv[4], features, 2, width);

  free(features);
  for (i = 0; i < 2; ++i) dino_picture_close(pictures[i]);
  dino_model_close(model);
  return 0;
}
