/* A program that uses a card as it is told on stdin, and answers on stdout with the CUDA result.
 *
 *   alloc MIB      -> 0 (success), 2 (out of memory), ...
 *   free           -> the result of freeing what was allocated last
 *   info           -> FREE TOTAL, in MiB
 */
#include <stdio.h>
#include <string.h>

typedef int CUresult;
typedef unsigned long long CUdeviceptr;

CUresult cuInit(unsigned int flags);
CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total);
CUresult cuMemAlloc_v2(CUdeviceptr *pointer, size_t bytes);
CUresult cuMemFree_v2(CUdeviceptr pointer);

int main(void) {
    char line[64];
    CUdeviceptr last = 0;
    size_t mib, free_bytes, total;
    if (cuInit(0) != 0) return 1;
    while (fgets(line, sizeof line, stdin) != NULL) {
        if (sscanf(line, "alloc %zu", &mib) == 1) {
            printf("%d\n", cuMemAlloc_v2(&last, mib << 20));
        } else if (strcmp(line, "free\n") == 0) {
            printf("%d\n", cuMemFree_v2(last));
        } else if (strcmp(line, "info\n") == 0 && cuMemGetInfo_v2(&free_bytes, &total) == 0) {
            printf("%zu %zu\n", free_bytes >> 20, total >> 20);
        } else {
            return 2;
        }
        fflush(stdout);
    }
    return 0;
}
