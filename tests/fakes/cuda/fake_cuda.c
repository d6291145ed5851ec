/* A fake libcuda.so.1 with one card: counts what the process allocates, and limits it only by the card.
 *
 * FAKE_CUDA_TOTAL_MIB  memory of the card (default 16384)
 *
 * Memory is a number here: nothing is allocated, and pointers are never followed.
 */
#include <stdlib.h>

typedef int CUresult;
typedef unsigned long long CUdeviceptr;

enum { CUDA_SUCCESS = 0, CUDA_ERROR_INVALID_VALUE = 1, CUDA_ERROR_OUT_OF_MEMORY = 2 };

#define MAX_BLOCKS 4096

static size_t sizes[MAX_BLOCKS];
static size_t used;

static size_t card_bytes(void) {
    const char *mib = getenv("FAKE_CUDA_TOTAL_MIB");
    return (mib ? strtoull(mib, NULL, 10) : 16384ULL) << 20;
}

CUresult cuInit(unsigned int flags) {
    return flags == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuDeviceTotalMem_v2(size_t *bytes, int device) {
    if (device != 0) return CUDA_ERROR_INVALID_VALUE;
    *bytes = card_bytes();
    return CUDA_SUCCESS;
}

CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    *total = card_bytes();
    *free_bytes = *total - used;
    return CUDA_SUCCESS;
}

CUresult cuMemAlloc_v2(CUdeviceptr *pointer, size_t bytes) {
    if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    if (bytes > card_bytes() - used) return CUDA_ERROR_OUT_OF_MEMORY;
    for (int block = 0; block < MAX_BLOCKS; block++) {
        if (sizes[block] != 0) continue;
        sizes[block] = bytes;
        used += bytes;
        *pointer = (CUdeviceptr)block + 1;
        return CUDA_SUCCESS;
    }
    return CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult cuMemFree_v2(CUdeviceptr pointer) {
    if (pointer == 0 || pointer > MAX_BLOCKS || sizes[pointer - 1] == 0) return CUDA_ERROR_INVALID_VALUE;
    used -= sizes[pointer - 1];
    sizes[pointer - 1] = 0;
    return CUDA_SUCCESS;
}
