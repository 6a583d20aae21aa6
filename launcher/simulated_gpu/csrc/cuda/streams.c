/* Streams and events. Everything has happened by the time a call returns. */
#include "simulated.h"

#include <time.h>

struct handle {
    double recorded_ms;
    int card, priority;
    char room[112]; /* libraries look into handles of their own for flags: they read zero */
};

double now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

void *new_handle(void)
{
    struct handle *made = calloc(1, sizeof *made);
    made->card = current_card();
    return made;
}

API status cudaStreamCreateWithPriority(stream *out, unsigned flags, int priority)
{
    (void)flags;
    *out = new_handle();
    (*out)->priority = priority;
    return OK;
}

API status cudaStreamCreateWithFlags(stream *out, unsigned flags)
{
    return cudaStreamCreateWithPriority(out, flags, 0);
}

API status cudaStreamCreate(stream *out) { return cudaStreamCreateWithPriority(out, 0, 0); }

API status cudaStreamDestroy(stream on)
{
    free(on);
    return OK;
}

API status cudaStreamGetPriority(stream on, int *priority)
{
    *priority = (uintptr_t)on > 2 ? on->priority : 0; /* 0 to 2 are CUDA's own streams */
    return OK;
}

API status cudaStreamIsCapturing(stream on, int *state)
{
    (void)on;
    *state = 0;
    return OK;
}

/* What follows the first two results is not looked at where nothing is captured. */
API status cudaStreamGetCaptureInfo(stream on, int *state, unsigned long long *id)
{
    if (id)
        *id = 0;
    return cudaStreamIsCapturing(on, state);
}

API status cudaStreamGetCaptureInfo_v2(stream on, int *state, unsigned long long *id)
{
    return cudaStreamGetCaptureInfo(on, state, id);
}

API status cudaStreamBeginCapture(stream on, int mode)
{
    (void)on, (void)mode;
    return answer(NOT_SUPPORTED);
}

/* Each thread's mode, which matters to captures alone. */
API status cudaThreadExchangeStreamCaptureMode(int *mode)
{
    static __thread int held;
    int before = held;
    held = *mode;
    *mode = before;
    return OK;
}

API status cudaLaunchHostFunc(stream on, void (*function)(void *), void *data)
{
    (void)on;
    function(data);
    return OK;
}

API status cudaStreamAddCallback(stream on, void (*function)(stream, status, void *), void *data,
                                 unsigned flags)
{
    (void)flags;
    function(on, OK, data);
    return OK;
}

API status cudaEventCreateWithFlags(event *out, unsigned flags)
{
    (void)flags;
    *out = new_handle();
    return OK;
}

API status cudaEventCreate(event *out) { return cudaEventCreateWithFlags(out, 0); }

API status cudaEventDestroy(event known)
{
    free(known);
    return OK;
}

API status cudaEventRecord(event known, stream on)
{
    (void)on;
    known->recorded_ms = now_ms();
    return answer(loss());
}

/* Whatever is waited for has happened, unless the card is lost. */
#define WAITS(function)                                                                           \
    API status function(void *object)                                                             \
    {                                                                                             \
        (void)object;                                                                             \
        return answer(loss());                                                                    \
    }
WAITS(cudaStreamSynchronize)
WAITS(cudaStreamQuery)
WAITS(cudaEventSynchronize)
WAITS(cudaEventQuery)
WAITS(cuStreamSynchronize)

API status cudaDeviceSynchronize(void) { return answer(loss()); }
API status cuCtxSynchronize(void) { return answer(loss()); }

API status cudaEventRecordWithFlags(event known, stream on, unsigned flags)
{
    (void)flags;
    return cudaEventRecord(known, on);
}

/* The host's time, since no other passes; never zero, because programs divide by it. */
API status cudaEventElapsedTime(float *ms, event from, event to)
{
    double elapsed = to->recorded_ms - from->recorded_ms;
    *ms = elapsed > 1e-3 ? (float)elapsed : 1e-3f;
    return OK;
}
