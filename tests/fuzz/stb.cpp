// The code of stb_image, compiled with the sanitizers instead of linked: most of what reads pictures is in it.
#if defined(__clang__)
#pragma clang diagnostic ignored "-Weverything"
#endif
#define STB_IMAGE_IMPLEMENTATION
#include <stb_image.h>
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb_image_write.h>
