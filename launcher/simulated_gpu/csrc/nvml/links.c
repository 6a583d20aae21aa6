/* Answers about slots, NVLinks and peers. */
#include "../machine.h"

int nvmlDeviceGetNvLinkState(part *device, unsigned link, unsigned *active)
{
    WHOLE_GPU_OR_RETURN(device);
    if (device->nvlinks < 0)
        return ERROR_NOT_SUPPORTED;
    if (link >= (unsigned)device->card_nvlinks)
        return ERROR_INVALID_ARGUMENT;
    *active = link < (unsigned)device->nvlinks;
    return SUCCESS;
}

int nvmlDeviceGetP2PStatus(part *one, part *other, unsigned index, unsigned *status)
{
    WHOLE_GPU_OR_RETURN(one);
    if (index == P2P_INDEX_READ && machine.p2p >= 0) {
        *status = machine.p2p ? P2P_OK : P2P_NOT_SUPPORTED;
        return SUCCESS;
    }
    if (index != P2P_INDEX_NVLINK)
        return ERROR_NOT_SUPPORTED;
    int linked = machine.all_linked || machine.linked[one->index][other->index];
    *status = linked ? P2P_OK : P2P_NOT_SUPPORTED;
    return SUCCESS;
}

static int give_bus(pci_info *info, int index)
{
    memset(info, 0, sizeof *info);
    snprintf(info->bus_id, sizeof info->bus_id, "00000000:%02X:00.0", FIRST_BUS + index);
    info->bus = FIRST_BUS + (unsigned)index;
    return SUCCESS;
}

int nvmlDeviceGetPciInfo_v3(part *device, pci_info *info)
{
    WHOLE_GPU_OR_RETURN(device);
    return give_bus(info, device->index);
}

/* Only machines whose links are described one by one, or through a switch, tell where they end. */
int nvmlDeviceGetNvLinkRemoteDeviceType(part *device, unsigned link, unsigned *kind)
{
    WHOLE_GPU_OR_RETURN(device);
    (void)link;
    if (machine.all_linked && !machine.switched)
        return ERROR_NOT_SUPPORTED;
    *kind = machine.switched ? REMOTE_SWITCH : REMOTE_GPU;
    return SUCCESS;
}

/* The links of a GPU go to its partners in turn. */
int nvmlDeviceGetNvLinkRemotePciInfo_v2(part *device, unsigned link, pci_info *info)
{
    int partners[MAX_GPUS], count = 0;
    WHOLE_GPU_OR_RETURN(device);
    for (int other = 0; other < machine.num_gpus; other++)
        if (machine.linked[device->index][other])
            partners[count++] = other;
    if (!count)
        return ERROR_NOT_SUPPORTED;
    return give_bus(info, partners[link % (unsigned)count]);
}

int nvmlDeviceGetFieldValues(part *device, int count, field_value *values)
{
    WHOLE_GPU_OR_RETURN(device);
    for (int n = 0; n < count; n++) {
        int known = values[n].field == FIELD_NVLINK_MBPS && device->link_mbps > 0;
        values[n].result = known ? SUCCESS : ERROR_NOT_SUPPORTED;
        values[n].value.value = known ? (unsigned)device->link_mbps : 0;
    }
    return SUCCESS;
}

int nvmlDeviceGetMaxPcieLinkGeneration(part *device, unsigned *generation)
{
    WHOLE_GPU_OR_RETURN(device);
    return give(generation, device->pcie_generation);
}

int nvmlDeviceGetCurrPcieLinkWidth(part *device, unsigned *lanes)
{
    WHOLE_GPU_OR_RETURN(device);
    return give(lanes, device->pcie_generation < 0 ? -1 : device->pcie_lanes);
}

int nvmlDeviceGetMaxPcieLinkWidth(part *device, unsigned *lanes)
{
    WHOLE_GPU_OR_RETURN(device);
    return give(lanes, device->pcie_generation < 0 ? -1 : device->card_lanes);
}

int nvmlDeviceGetGpuMaxPcieLinkGeneration(part *device, unsigned *generation)
{
    WHOLE_GPU_OR_RETURN(device);
    return give(generation, device->card_generation);
}

/* A link at rest: every card here idles at the first generation. */
int nvmlDeviceGetCurrPcieLinkGeneration(part *device, unsigned *generation)
{
    WHOLE_GPU_OR_RETURN(device);
    return give(generation, device->pcie_generation < 0 ? -1 : 1);
}
