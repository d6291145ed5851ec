/* A stand-in for HAMi-core's libvgpu.so: preloaded, it holds the processes of a slice to their limit of card 0 and
 * counts what they use in the shared region, in the layout of its version 1 (x86-64).
 *
 * CUDA_DEVICE_MEMORY_LIMIT_0, CUDA_DEVICE_SM_LIMIT, CUDA_DEVICE_MEMORY_SHARED_CACHE  as HAMi-core reads them
 * FAKE_VGPU_UUID  what NVML calls the card
 *
 * It knows plain allocations and nothing else, one card, and limits with the suffix m.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

typedef int CUresult;
typedef unsigned long long CUdeviceptr;

enum { CUDA_SUCCESS = 0, CUDA_ERROR_OUT_OF_MEMORY = 2 };
enum { MAGIC = 19920718, REGION_BYTES = 2008952, SLOTS = 1024, BLOCKS = 4096 };
enum { DEVICES = 56, UUIDS = 64, MEMORY_LIMITS = 1600, CORE_LIMITS = 1728, PROCESSES = 1856, SLOT_BYTES = 1960 };
enum { PROCESS_COUNT = 2008896, SWITCH = 2008900 };
enum { SLOT_USED_DATA = 24, SLOT_USED_TOTAL = 40, SLOT_STATUS = 1928, SLOT_SEQLOCK = 1936 };

static unsigned char *region;
static unsigned char *own;
static int region_file = -1;
static struct { CUdeviceptr pointer; size_t bytes; } blocks[BLOCKS];

#define AT(type, where) (*(volatile type *)(where))

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void *next(const char *name) {
    void *symbol = dlsym(RTLD_NEXT, name);
    if (symbol == NULL) die(name);
    return symbol;
}

static uint64_t limit_bytes(void) {
    const char *text = getenv("CUDA_DEVICE_MEMORY_LIMIT_0");
    return text ? strtoull(text, NULL, 10) << 20 : 0;
}

/* Whoever comes first writes the limits; for those who come later they stand, whatever their environment says. */
static void initialise(void) {
    const char *uuid = getenv("FAKE_VGPU_UUID"), *cores = getenv("CUDA_DEVICE_SM_LIMIT");
    if (AT(int32_t, region) == MAGIC) return;
    AT(uint32_t, region + 4) = 1;
    AT(uint32_t, region + 8) = 2;
    AT(uint64_t, region + DEVICES) = 1;
    snprintf((char *)region + UUIDS, 96, "%s", uuid ? uuid : "");
    AT(uint64_t, region + MEMORY_LIMITS) = limit_bytes();
    AT(uint64_t, region + CORE_LIMITS) = cores ? strtoull(cores, NULL, 10) : 0;
    AT(int32_t, region + SWITCH) = 1;
    AT(int32_t, region) = MAGIC;
}

static void join(void) {
    for (int slot = 0; slot < SLOTS; slot++) {
        unsigned char *place = region + PROCESSES + slot * SLOT_BYTES;
        if (AT(int32_t, place + SLOT_STATUS) != 0) continue;
        AT(int32_t, place) = getpid();
        AT(int32_t, place + SLOT_STATUS) = 1;
        if (AT(int32_t, region + PROCESS_COUNT) <= slot) AT(int32_t, region + PROCESS_COUNT) = slot + 1;
        own = place;
        return;
    }
    die("no free slot");
}

static void leave(void) {
    AT(uint64_t, own + SLOT_USED_TOTAL) = AT(uint64_t, own + SLOT_USED_DATA) = 0;
    AT(int32_t, own + SLOT_STATUS) = 0;
}

static void open_region(void) {
    const char *path = getenv("CUDA_DEVICE_MEMORY_SHARED_CACHE");
    region_file = open(path ? path : "/tmp/cudevshr.cache", O_RDWR | O_CREAT, 0666);
    if (region_file < 0 || ftruncate(region_file, REGION_BYTES + 1) != 0) die("shared region");
    region = mmap(NULL, REGION_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, region_file, 0);
    if (region == MAP_FAILED) die("shared region");
    flock(region_file, LOCK_EX);
    initialise();
    join();
    flock(region_file, LOCK_UN);
    atexit(leave);
}

static uint64_t used_bytes(void) {
    uint64_t sum = 0;
    for (int slot = 0; slot < AT(int32_t, region + PROCESS_COUNT); slot++) {
        unsigned char *place = region + PROCESSES + slot * SLOT_BYTES;
        if (AT(int32_t, place + SLOT_STATUS) != 0) sum += AT(uint64_t, place + SLOT_USED_TOTAL);
    }
    return sum;
}

static void count(int64_t bytes) {
    AT(uint64_t, own + SLOT_SEQLOCK) += 1;
    __sync_synchronize();
    AT(uint64_t, own + SLOT_USED_DATA) += (uint64_t)bytes;
    AT(uint64_t, own + SLOT_USED_TOTAL) += (uint64_t)bytes;
    __sync_synchronize();
    AT(uint64_t, own + SLOT_SEQLOCK) += 1;
}

CUresult cuInit(unsigned int flags) {
    CUresult (*init)(unsigned int) = (CUresult (*)(unsigned int))next("cuInit");
    if (region == NULL) open_region();
    return init(flags);
}

CUresult cuDeviceTotalMem_v2(size_t *bytes, int device) {
    (void)device;
    *bytes = AT(uint64_t, region + MEMORY_LIMITS); /* as it stands, 0 too */
    return CUDA_SUCCESS;
}

CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    *total = AT(uint64_t, region + MEMORY_LIMITS);
    *free_bytes = *total - used_bytes();
    return CUDA_SUCCESS;
}

CUresult cuMemAlloc_v2(CUdeviceptr *pointer, size_t bytes) {
    CUresult (*allocate)(CUdeviceptr *, size_t) = (CUresult (*)(CUdeviceptr *, size_t))next("cuMemAlloc_v2");
    uint64_t limit = AT(uint64_t, region + MEMORY_LIMITS);
    CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
    flock(region_file, LOCK_EX);
    if (limit == 0 || used_bytes() + bytes <= limit) result = allocate(pointer, bytes);
    if (result == CUDA_SUCCESS) {
        for (int block = 0; block < BLOCKS; block++) {
            if (blocks[block].bytes != 0) continue;
            blocks[block].pointer = *pointer;
            blocks[block].bytes = bytes;
            count((int64_t)bytes);
            break;
        }
    }
    flock(region_file, LOCK_UN);
    return result;
}

CUresult cuMemFree_v2(CUdeviceptr pointer) {
    CUresult (*release)(CUdeviceptr) = (CUresult (*)(CUdeviceptr))next("cuMemFree_v2");
    for (int block = 0; block < BLOCKS; block++) {
        if (blocks[block].bytes == 0 || blocks[block].pointer != pointer) continue;
        count(-(int64_t)blocks[block].bytes);
        blocks[block].bytes = 0;
    }
    return release(pointer);
}
