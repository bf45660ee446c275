/* A libnvidia-ml.so.1 that presents eight healthy H100s, and one fault named by NVML_STUB_FAULT on GPU 3.
 *
 * Only the calls that the reader makes. Structures are laid out as in NVIDIA's nvml.h; the values are those of an idle
 * Hopper GPU. NVML_STUB_PID is the process that the fault "foreign_process" shows. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, INSUFFICIENT_SIZE = 7,
       DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15, RESET_REQUIRED = 16 };
enum { GPUS = 8, BAD_GPU = 3, LINKS = 18 };
enum { FIELD_SLOWDOWN_TLIMIT = 194, FIELD_RECOVERY_ACTION = 230 };

#define MIB (1024ull * 1024ull)
#define TOTAL (81559ull * MIB)
#define RESERVED (551ull * MIB)
#define FOREIGN (40960ull * MIB)

typedef struct { unsigned index; } gpu_t;
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_v2_t;
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } pci_t;
typedef struct { unsigned pid; unsigned long long used; unsigned instance, compute; } process_t;
typedef struct { unsigned version, sensor; int temperature; } temperature_t;
typedef struct { unsigned version; int margin; } margin_t;
typedef struct { unsigned version; unsigned char uuid[16]; unsigned status, clique, state, health; } fabric_t;
typedef struct { unsigned gpu, memory; } utilization_t;
typedef struct {
    unsigned field, scope; int64_t timestamp, latency; unsigned type, result;
    union { double d; unsigned u; unsigned long ul; unsigned long long ull; long long sll; int i; } value;
} field_t;

static gpu_t gpus[GPUS] = {{0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}};

static int fault(const char *name) {
    const char *wanted = getenv("NVML_STUB_FAULT");
    return wanted != NULL && strcmp(wanted, name) == 0;
}

static int here(const gpu_t *gpu, const char *name) { return gpu->index == BAD_GPU && fault(name); }

int nvmlInitWithFlags(unsigned flags) { (void)flags; return fault("no_driver") ? DRIVER_NOT_LOADED : SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(int code) {
    switch (code) {
    case GPU_IS_LOST: return "GPU is lost";
    case RESET_REQUIRED: return "GPU requires reset";
    default: return "NVML stub error";
    }
}

int nvmlSystemGetDriverVersion(char *text, unsigned length) { snprintf(text, length, "580.159.04"); return SUCCESS; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = fault("old_driver") ? 11080 : 13000; return SUCCESS; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = fault("wrong_count") ? GPUS - 1 : GPUS; return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, gpu_t **gpu) {
    if (index >= GPUS) return INVALID_ARGUMENT;
    *gpu = &gpus[index];
    if (here(*gpu, "gpu_lost")) return GPU_IS_LOST;
    return here(*gpu, "reset_required") ? RESET_REQUIRED : SUCCESS;
}

int nvmlDeviceGetName(gpu_t *gpu, char *text, unsigned length) {
    snprintf(text, length, here(gpu, "wrong_model") ? "NVIDIA A100-SXM4-80GB" : "NVIDIA H100 80GB HBM3");
    return SUCCESS;
}

int nvmlDeviceGetUUID(gpu_t *gpu, char *text, unsigned length) {
    snprintf(text, length, "GPU-%08u-0000-0000-0000-000000000000", gpu->index);
    return SUCCESS;
}

int nvmlDeviceGetPciInfo_v3(gpu_t *gpu, pci_t *pci) {
    memset(pci, 0, sizeof *pci);
    pci->bus = 0x10 + gpu->index;
    snprintf(pci->bus_id, sizeof pci->bus_id, "00000000:%02X:00.0", pci->bus);
    return SUCCESS;
}

static unsigned long long held(const gpu_t *gpu) { return here(gpu, "foreign_process") ? FOREIGN : 0; }

int nvmlDeviceGetMemoryInfo(gpu_t *gpu, memory_t *memory) {
    memory->total = TOTAL;
    memory->used = RESERVED + held(gpu);
    memory->free = TOTAL - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(gpu_t *gpu, memory_v2_t *memory) {
    memory->total = TOTAL;
    memory->reserved = RESERVED;
    memory->used = held(gpu);
    memory->free = TOTAL - RESERVED - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetCudaComputeCapability(gpu_t *gpu, int *major, int *minor) {
    (void)gpu; *major = 9; *minor = 0; return SUCCESS;
}

static int temperature(const gpu_t *gpu) { return here(gpu, "near_slowdown") ? 85 : here(gpu, "hot") ? 91 : 37; }

int nvmlDeviceGetTemperatureV(gpu_t *gpu, temperature_t *out) { out->temperature = temperature(gpu); return SUCCESS; }
int nvmlDeviceGetMarginTemperature(gpu_t *gpu, margin_t *out) { out->margin = 87 - temperature(gpu); return SUCCESS; }

int nvmlDeviceGetFieldValues(gpu_t *gpu, int count, field_t *fields) {
    for (int i = 0; i < count; i++) {
        fields[i].result = SUCCESS;
        if (fields[i].field == FIELD_SLOWDOWN_TLIMIT) fields[i].value.i = -2;
        else if (fields[i].field == FIELD_RECOVERY_ACTION) fields[i].value.u = here(gpu, "recovery") ? 4 : 0;
        else fields[i].result = NOT_SUPPORTED;
    }
    return SUCCESS;
}

int nvmlDeviceGetRemappedRows(gpu_t *gpu, unsigned *corrected, unsigned *uncorrected, unsigned *pending, unsigned *failed) {
    if (here(gpu, "unreadable")) return NO_PERMISSION;
    *corrected = 0;
    *uncorrected = here(gpu, "remap_pending") || here(gpu, "remap_failed");
    *pending = here(gpu, "remap_pending");
    *failed = here(gpu, "remap_failed");
    return SUCCESS;
}

int nvmlDeviceGetRetiredPagesPendingStatus(gpu_t *gpu, unsigned *pending) {
    (void)gpu; (void)pending; return NOT_SUPPORTED; /* replaced by row remapping since Ampere */
}

int nvmlDeviceGetEccMode(gpu_t *gpu, unsigned *current, unsigned *pending) {
    *current = *pending = !here(gpu, "ecc_off"); return SUCCESS;
}

int nvmlDeviceGetTotalEccErrors(gpu_t *gpu, unsigned type, unsigned counter, unsigned long long *count) {
    (void)type; (void)counter; *count = here(gpu, "ecc_errors") ? 2 : 0; return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(gpu_t *gpu, unsigned *count, process_t *processes) {
    if (!here(gpu, "foreign_process")) { *count = 0; return SUCCESS; }
    if (processes == NULL || *count < 1) { *count = 1; return INSUFFICIENT_SIZE; }
    const char *pid = getenv("NVML_STUB_PID");
    memset(processes, 0, sizeof *processes);
    processes->pid = pid == NULL ? 4242 : (unsigned)atoi(pid);
    processes->used = FOREIGN;
    *count = 1;
    return SUCCESS;
}

int nvmlDeviceGetMigMode(gpu_t *gpu, unsigned *current, unsigned *pending) {
    *current = *pending = here(gpu, "mig"); return SUCCESS;
}

int nvmlDeviceGetComputeMode(gpu_t *gpu, unsigned *mode) { *mode = here(gpu, "prohibited") ? 2 : 0; return SUCCESS; }
int nvmlDeviceGetPersistenceMode(gpu_t *gpu, unsigned *mode) { *mode = !here(gpu, "no_persistence"); return SUCCESS; }

int nvmlDeviceGetNvLinkState(gpu_t *gpu, unsigned link, unsigned *active) {
    if (link >= LINKS) return INVALID_ARGUMENT;
    *active = !(here(gpu, "nvlink_down") && link == 5);
    return SUCCESS;
}

int nvmlDeviceGetP2PStatus(gpu_t *gpu, gpu_t *peer, unsigned what, unsigned *status) {
    (void)peer; (void)what; *status = here(gpu, "no_p2p") ? 1 : 0; return SUCCESS;
}

int nvmlDeviceGetGpuFabricInfoV(gpu_t *gpu, fabric_t *info) {
    info->status = SUCCESS; info->state = here(gpu, "no_fabric") ? 1 : 3; return SUCCESS;
}

int nvmlDeviceGetCurrPcieLinkWidth(gpu_t *gpu, unsigned *width) { *width = here(gpu, "pcie") ? 8 : 16; return SUCCESS; }
int nvmlDeviceGetMaxPcieLinkWidth(gpu_t *gpu, unsigned *width) { (void)gpu; *width = 16; return SUCCESS; }

int nvmlDeviceGetCurrentClocksEventReasons(gpu_t *gpu, unsigned long long *reasons) {
    *reasons = here(gpu, "throttle") ? 0x48 : here(gpu, "power_brake") ? 0x88 : here(gpu, "sw_thermal") ? 0x20 : 0x1;
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(gpu_t *gpu, utilization_t *rates) {
    (void)gpu; rates->gpu = 95; rates->memory = 40; return SUCCESS;
}

int nvmlDeviceGetPowerUsage(gpu_t *gpu, unsigned *milliwatts) { (void)gpu; *milliwatts = 612500; return SUCCESS; }
int nvmlDeviceGetClockInfo(gpu_t *gpu, unsigned type, unsigned *mhz) { (void)gpu; (void)type; *mhz = 1980; return SUCCESS; }
