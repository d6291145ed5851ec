/*
 * A libnvidia-ml.so.1 for machines without a card. It answers what the file named by FAKE_NVML_CONFIG says, and reads
 * the file again whenever it was replaced. As with the real library, the set of cards is taken at initialisation: a
 * card that leaves the file is lost, one that comes is seen after the next nvmlInit.
 *
 *   init <NVML error number>           0 or absent: NVML starts
 *   driver <text>                      cuda <major * 1000 + minor * 10>
 *   card <uuid>                        what follows describes this card
 *   instance <uuid>                    ... this MIG instance of the card above
 *     name <text>   bus <pci bus id>   total|used|reserved <MiB>   capability <major> <minor>   numa <node>
 *     lost                             every call about it answers "GPU is lost"
 *     memory_error <NVML error number> what a query of its memory answers
 *     free_bytes <bytes>               instead of total - used - reserved
 *     process <pid> <MiB>              xid <code> <serial>: an event, once for each new serial
 *     ecc <count>   rows <pending> <failed>   mig (in MIG mode)   nvlink <uuid or "switch"> <links>
 *   topology <uuid> <uuid> <level>     the common ancestor of two cards; absent: 50, the system
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
       TIMEOUT = 10, GPU_IS_LOST = 15 };
enum { MAX_DEVICES = 64, MAX_PROCESSES = 32, MAX_LINKS = 18, MAX_PAIRS = 64, UUID = 96, MIB = 1024 * 1024 };

typedef unsigned long long u64;

struct device {
    char uuid[UUID], parent[UUID], name[96], bus[32];
    u64 total, used, reserved, free_bytes, ecc;
    int has_free, major, minor, numa, lost, memory_error, mig, rows_pending, rows_failed, xid, xid_serial;
    int processes, pids[MAX_PROCESSES], links;
    u64 process_mib[MAX_PROCESSES];
    char ends[MAX_LINKS][UUID];
};

static struct {
    int init, cuda, count, pairs;
    char driver[80];
    struct device devices[MAX_DEVICES];
    struct { char one[UUID], other[UUID]; int level; } pair[MAX_PAIRS];
} config;

/* What nvmlInit found: handles point here. */
static struct handle { char uuid[UUID], parent[UUID]; int registered, delivered; } handles[MAX_DEVICES];
static int handle_count, started;
static struct stat read_of;

static void parse_line(char *line)
{
    static struct device *device;
    char key[32], *value;
    int read = 0, number, links;
    char end[UUID];

    if (sscanf(line, " %31s %n", key, &read) != 1 || key[0] == '#') return;
    value = line + read;
    value[strcspn(value, "\n")] = 0;
    if (!strcmp(key, "init")) config.init = atoi(value);
    else if (!strcmp(key, "driver")) snprintf(config.driver, sizeof config.driver, "%s", value);
    else if (!strcmp(key, "cuda")) config.cuda = atoi(value);
    else if (!strcmp(key, "topology") && config.pairs < MAX_PAIRS) {
        if (sscanf(value, "%95s %95s %d", config.pair[config.pairs].one, config.pair[config.pairs].other,
                   &config.pair[config.pairs].level) == 3) config.pairs++;
    } else if ((!strcmp(key, "card") || !strcmp(key, "instance")) && config.count < MAX_DEVICES) {
        const char *parent = value;
        for (int i = 0; *key == 'i' && i < config.count; i++) parent = config.devices[i].parent;
        device = &config.devices[config.count++];
        memset(device, 0, sizeof *device);
        snprintf(device->uuid, UUID, "%s", value);
        snprintf(device->parent, UUID, "%s", parent);
        snprintf(device->name, sizeof device->name, "NVIDIA Fake");
        snprintf(device->bus, sizeof device->bus, "FFFFFFFF:%02X:00.0", config.count);
        device->numa = -1;
    } else if (!device) return;
    else if (!strcmp(key, "name")) snprintf(device->name, sizeof device->name, "%s", value);
    else if (!strcmp(key, "bus")) snprintf(device->bus, sizeof device->bus, "%s", value);
    else if (!strcmp(key, "total")) device->total = strtoull(value, NULL, 10) * MIB;
    else if (!strcmp(key, "used")) device->used = strtoull(value, NULL, 10) * MIB;
    else if (!strcmp(key, "reserved")) device->reserved = strtoull(value, NULL, 10) * MIB;
    else if (!strcmp(key, "free_bytes")) device->free_bytes = strtoull(value, NULL, 10), device->has_free = 1;
    else if (!strcmp(key, "capability")) sscanf(value, "%d %d", &device->major, &device->minor);
    else if (!strcmp(key, "numa")) device->numa = atoi(value);
    else if (!strcmp(key, "lost")) device->lost = 1;
    else if (!strcmp(key, "memory_error")) device->memory_error = atoi(value);
    else if (!strcmp(key, "xid")) sscanf(value, "%d %d", &device->xid, &device->xid_serial);
    else if (!strcmp(key, "ecc")) device->ecc = strtoull(value, NULL, 10);
    else if (!strcmp(key, "rows")) sscanf(value, "%d %d", &device->rows_pending, &device->rows_failed);
    else if (!strcmp(key, "mig")) device->mig = 1;
    else if (!strcmp(key, "process") && device->processes < MAX_PROCESSES) {
        if (sscanf(value, "%d %llu", &number, &device->process_mib[device->processes]) == 2)
            device->pids[device->processes++] = number;
    } else if (!strcmp(key, "nvlink") && sscanf(value, "%95s %d", end, &links) == 2)
        while (links-- > 0 && device->links < MAX_LINKS) strcpy(device->ends[device->links++], end);
}

static void refresh(void)
{
    const char *path = getenv("FAKE_NVML_CONFIG");
    struct stat now;
    char line[256];
    FILE *file;

    if (!path || stat(path, &now)) return;
    if (now.st_ino == read_of.st_ino && now.st_size == read_of.st_size && now.st_mtim.tv_sec == read_of.st_mtim.tv_sec &&
        now.st_mtim.tv_nsec == read_of.st_mtim.tv_nsec) return;
    if (!(file = fopen(path, "r"))) return;
    read_of = now;
    memset(&config, 0, sizeof config);
    while (fgets(line, sizeof line, file)) parse_line(line);
    fclose(file);
}

static struct device *named(const char *uuid)
{
    for (int i = 0; i < config.count; i++)
        if (!strcmp(config.devices[i].uuid, uuid)) return &config.devices[i];
    return NULL;
}

/* The device behind a handle, or the error that every call about it answers. */
static int find(struct handle *handle, struct device **device)
{
    refresh();
    if (!started) return UNINITIALIZED;
    if (!handle) return INVALID_ARGUMENT;
    *device = named(handle->uuid);
    struct device *card = named(handle->parent);
    return *device && card && !card->lost ? SUCCESS : GPU_IS_LOST;
}

#define FIND(handle) struct device *device; { int error = find(handle, &device); if (error) return error; }

int nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    refresh();
    if (config.init) return config.init;
    if (started++) return SUCCESS;
    memset(handles, 0, sizeof handles);
    for (handle_count = 0; handle_count < config.count; handle_count++) {
        strcpy(handles[handle_count].uuid, config.devices[handle_count].uuid);
        strcpy(handles[handle_count].parent, config.devices[handle_count].parent);
    }
    return SUCCESS;
}

int nvmlShutdown(void)
{
    if (!started) return UNINITIALIZED;
    started--;
    return SUCCESS;
}

const char *nvmlErrorString(int error) { (void)error; return "an error of the fake NVML"; }

int nvmlSystemGetDriverVersion(char *version, unsigned length)
{
    refresh();
    snprintf(version, length, "%s", config.driver);
    return started ? SUCCESS : UNINITIALIZED;
}

int nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    refresh();
    *version = config.cuda;
    return started ? SUCCESS : UNINITIALIZED;
}

static int is_card(struct handle *handle) { return !strcmp(handle->uuid, handle->parent); }

int nvmlDeviceGetCount_v2(unsigned *count)
{
    if (!started) return UNINITIALIZED;
    *count = 0;
    for (int i = 0; i < handle_count; i++) *count += is_card(&handles[i]);
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct handle **handle)
{
    for (int i = 0; i < handle_count; i++)
        if (is_card(&handles[i]) && !index--) {
            *handle = &handles[i];
            FIND(*handle);
            return SUCCESS;
        }
    return INVALID_ARGUMENT;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, struct handle **handle)
{
    for (int i = 0; i < handle_count; i++)
        if (!strcmp(handles[i].uuid, uuid)) {
            *handle = &handles[i];
            FIND(*handle);
            return SUCCESS;
        }
    return NOT_FOUND;
}

int nvmlDeviceGetIndex(struct handle *handle, unsigned *index)
{
    FIND(handle);
    *index = 0;
    for (struct handle *before = handles; before < handle; before++) *index += is_card(before);
    return SUCCESS;
}

int nvmlDeviceGetUUID(struct handle *handle, char *uuid, unsigned length)
{
    FIND(handle);
    snprintf(uuid, length, "%s", device->uuid);
    return SUCCESS;
}

int nvmlDeviceGetName(struct handle *handle, char *name, unsigned length)
{
    FIND(handle);
    snprintf(name, length, "%s", device->name);
    return SUCCESS;
}

static u64 free_of(const struct device *device, u64 taken)
{
    return device->has_free ? device->free_bytes : device->total - taken;
}

struct memory { u64 total, free, used; };
struct memory_v2 { unsigned version; u64 total, reserved, free, used; };

int nvmlDeviceGetMemoryInfo(struct handle *handle, struct memory *memory)
{
    FIND(handle);
    if (device->memory_error) return device->memory_error;
    memory->total = device->total;
    memory->used = device->used + device->reserved;
    memory->free = free_of(device, memory->used);
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(struct handle *handle, struct memory_v2 *memory)
{
    FIND(handle);
    if (device->memory_error) return device->memory_error;
    memory->total = device->total;
    memory->reserved = device->reserved;
    memory->used = device->used;
    memory->free = free_of(device, memory->used + memory->reserved);
    return SUCCESS;
}

int nvmlDeviceGetCudaComputeCapability(struct handle *handle, int *major, int *minor)
{
    FIND(handle);
    *major = device->major;
    *minor = device->minor;
    return SUCCESS;
}

struct process { unsigned pid; u64 used; unsigned instance, compute_instance; };

int nvmlDeviceGetComputeRunningProcesses_v3(struct handle *handle, unsigned *count, struct process *processes)
{
    FIND(handle);
    unsigned room = *count;
    *count = device->processes;
    if (room < *count) return INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < *count; i++)
        processes[i] = (struct process){device->pids[i], device->process_mib[i] * MIB, 0xFFFFFFFF, 0xFFFFFFFF};
    return SUCCESS;
}

struct pci { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; };

int nvmlDeviceGetPciInfo_v3(struct handle *handle, struct pci *pci)
{
    FIND(handle);
    memset(pci, 0, sizeof *pci);
    strcpy(pci->bus_id, device->bus);
    return SUCCESS;
}

int nvmlDeviceGetNumaNodeId(struct handle *handle, int *node)
{
    FIND(handle);
    *node = device->numa;
    return device->numa < 0 ? NOT_SUPPORTED : SUCCESS;
}

int nvmlDeviceGetTopologyCommonAncestor(struct handle *one, struct handle *other, int *level)
{
    { FIND(one); }
    { FIND(other); }
    *level = 50;
    for (int i = 0; i < config.pairs; i++)
        if ((!strcmp(config.pair[i].one, one->uuid) && !strcmp(config.pair[i].other, other->uuid)) ||
            (!strcmp(config.pair[i].one, other->uuid) && !strcmp(config.pair[i].other, one->uuid)))
            *level = config.pair[i].level;
    return SUCCESS;
}

int nvmlDeviceGetNvLinkState(struct handle *handle, unsigned link, unsigned *active)
{
    FIND(handle);
    if (!device->links) return NOT_SUPPORTED;
    if (link >= MAX_LINKS) return INVALID_ARGUMENT;
    *active = (int)link < device->links;
    return SUCCESS;
}

int nvmlDeviceGetNvLinkRemoteDeviceType(struct handle *handle, unsigned link, unsigned *type)
{
    FIND(handle);
    if ((int)link >= device->links) return INVALID_ARGUMENT;
    *type = strcmp(device->ends[link], "switch") ? 0 : 2;
    return SUCCESS;
}

int nvmlDeviceGetNvLinkRemotePciInfo_v2(struct handle *handle, unsigned link, struct pci *pci)
{
    FIND(handle);
    struct device *other = (int)link < device->links ? named(device->ends[link]) : NULL;
    if (!other) return INVALID_ARGUMENT;
    memset(pci, 0, sizeof *pci);
    strcpy(pci->bus_id, other->bus);
    return SUCCESS;
}

int nvmlDeviceGetMigMode(struct handle *handle, unsigned *current, unsigned *pending)
{
    FIND(handle);
    *current = *pending = device->mig;
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(struct handle *handle, unsigned *count)
{
    FIND(handle);
    *count = 7;
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(struct handle *handle, unsigned index, struct handle **instance)
{
    FIND(handle);
    for (int i = 0; i < handle_count; i++)
        if (!is_card(&handles[i]) && !strcmp(handles[i].parent, handle->uuid) && !index--) {
            *instance = &handles[i];
            return SUCCESS;
        }
    return NOT_FOUND;
}

int nvmlDeviceGetTotalEccErrors(struct handle *handle, int type, int counter, u64 *count)
{
    (void)counter;
    FIND(handle);
    *count = type == 1 ? device->ecc : 0;
    return SUCCESS;
}

int nvmlDeviceGetRemappedRows(struct handle *handle, unsigned *corrected, unsigned *uncorrected, unsigned *pending,
                              unsigned *failed)
{
    FIND(handle);
    *corrected = *uncorrected = 0;
    *pending = device->rows_pending;
    *failed = device->rows_failed;
    return SUCCESS;
}

int nvmlEventSetCreate(void **set) { static int only; *set = &only; return started ? SUCCESS : UNINITIALIZED; }

int nvmlEventSetFree(void *set) { (void)set; return started ? SUCCESS : UNINITIALIZED; }

int nvmlDeviceRegisterEvents(struct handle *handle, u64 types, void *set)
{
    (void)types; (void)set;
    FIND(handle);
    handle->registered = 1;
    handle->delivered = device->xid_serial;
    return SUCCESS;
}

struct event { struct handle *device; u64 type, data; unsigned instance, compute_instance; };

int nvmlEventSetWait_v2(void *set, struct event *event, unsigned milliseconds)
{
    (void)set; (void)milliseconds;
    refresh();
    for (int i = 0; i < handle_count; i++) {
        struct device *device = named(handles[i].uuid);
        if (!handles[i].registered || !device || device->xid_serial == handles[i].delivered) continue;
        handles[i].delivered = device->xid_serial;
        event->device = &handles[i];
        event->type = 8;
        event->data = device->xid;
        return SUCCESS;
    }
    return started ? TIMEOUT : UNINITIALIZED;
}
