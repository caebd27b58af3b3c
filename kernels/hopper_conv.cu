// A 3x3 convolution with what surrounds it, on a Hopper GPU's warpgroup products. hopper_conv.py says what it computes.
//
// A block of threads keeps the weights of CH outputs in shared memory and walks over tiles of images. The warpgroups of
// a unit share a tile: its inputs are read once, normalised on the way to shared memory, and multiplied there nine
// times, once for each tap, with no copy of any pixel. Outputs are the rows of a product, pixels its columns: 64 x NT
// of them are a warpgroup's; with 32 outputs half of the rows are never looked at. Units take turns at the tensor
// cores: one multiplies, others read, normalise and store.
//
// Given by the compiler's options: CH (input channels of a step and outputs of a block, 64 or 32), C1, C2 (input
// channels of the two pieces), R1, R2 (channels that a 1x1 convolution projects), NT, WARPGROUPS (of a unit), UNITS,
// ENLARGE (1 or 2), NORM, ADAPTIVE (what is added to the gain), RESIDUAL.
typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short u16;

#define UNIT (128 * WARPGROUPS)           // threads that share a tile
#define THREADS (UNIT * UNITS)
#define TILE_WIDTH (8 * WARPGROUPS)       // a warpgroup has eight columns
#define TILE_HEIGHT (NT / 8)
#define PITCH (TILE_WIDTH + 2)            // of a tile's inputs
#define PIXELS (PITCH * (TILE_HEIGHT + 2))
#define BUFFER ((PIXELS * 128 + 1023) / 1024 * 1024)
#define STEPS (C1 / CH + C2 / CH + R1 / CH + R2 / CH)
#define CONV_STEPS (C1 / CH + C2 / CH)
#define CHUNKS (CH / 8)                   // of 16 bytes, of a pixel; a thread each
#define AT_A_TIME (UNIT / CHUNKS)         // pixels that a unit's threads take
#define ITERATIONS ((PIXELS + AT_A_TIME - 1) / AT_A_TIME)
#define ROUNDS (NT * WARPGROUPS / AT_A_TIME)  // for a tile's outputs
#define GROUPS (CH / 32)                  // of 32 channels: those of the norm
#define BATCH 4  // pixels a thread takes at a time
#define ACC (NT / 2)
#define TAP 8192                          // bytes: 64 outputs x 64 channels, of which fewer may be there
#define NUM_TAPS (CONV_STEPS * 9 + STEPS - CONV_STEPS)
#define STAGED (RESIDUAL ? NT * WARPGROUPS * 128 : 0)  // bytes for outputs beside the inputs: a residual comes early

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

__device__ __forceinline__ uint4 load16(const void* p) {
    uint4 v;
    asm volatile("ld.global.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}
__device__ __forceinline__ void store16(void* p, uint4 v) {
    asm volatile("st.global.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(p), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
__device__ __forceinline__ uint4 load16_shared(u32 at) {
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(at) : "memory");
    return v;
}
__device__ __forceinline__ void store16_shared(u32 at, uint4 v) {
    asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(at), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
__device__ __forceinline__ void copy16_async(u32 to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ float low(u32 v) { return __uint_as_float(v << 16); }
__device__ __forceinline__ float high(u32 v) { return __uint_as_float(v & 0xffff0000u); }
__device__ __forceinline__ u32 packed(float lo, float hi) {
    u32 v;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(hi), "f"(lo));
    return v;
}
__device__ __forceinline__ float bf16(const u16* p) { return __uint_as_float((u32)*p << 16); }

// Shared memory as wgmma reads it: rows of 128 bytes, whose pieces of 16 are swapped by the row's number modulo 8.
__device__ __forceinline__ u64 descriptor(u32 at, u32 eight_rows) {
    return (u64)((at & 0x3ffff) >> 4) | (u64)1 << 16 | (u64)(eight_rows >> 4) << 32 | (u64)1 << 62;
}
__device__ __forceinline__ u32 swizzled(int row, int chunk) { return row * 128 + ((chunk ^ (row & 7)) << 4); }

__device__ __forceinline__ float silu(float z) {
    float e, r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(z * -1.44269504f));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(1.0f + e));
    return z * r;
}

__device__ __forceinline__ float warp_sum(float v) {
    for (int i = 16; i; i /= 2) v += __shfl_xor_sync(0xffffffff, v, i);
    return v;
}

WGMMA

extern "C" __global__ void __launch_bounds__(THREADS, 1) hopper_conv(
    const u16* x1, const u16* x2, const u16* weight, const u16* bias, const u16* scale, const u16* shift,
    const float* stats1, const float* stats2, const u16* residual, const u16* r1, const u16* r2, const u16* projection,
    const u16* projection_bias, u16* out, float* out_stats, int images, int height, int width, int out_channels,
    int parts1, int parts2, int scale_stride, int shift_stride, float eps) {
    extern __shared__ unsigned char memory[];
    __shared__ float gains[UNITS][CH], offsets[UNITS][CH], partial[UNITS][4 * WARPGROUPS][GROUPS][3];
    const u32 weights_at = (shared_address(memory) + 1023) / 1024 * 1024;
    const int unit = __shfl_sync(0xffffffff, threadIdx.x / UNIT, 0), thread = threadIdx.x % UNIT;
    const int warp = thread / 32, lane = thread % 32, group = thread / 128;
    const u32 inputs_at = weights_at + NUM_TAPS * TAP + unit * (BUFFER + STAGED);
    const u32 outputs_at = RESIDUAL ? inputs_at + BUFFER : inputs_at;  // else in the inputs' place
    const int block = blockIdx.y;  // of CH output channels
    const int chunk = thread % CHUNKS;  // of 8 channels
    const int tiles_a_row = (width + TILE_WIDTH - 1) / TILE_WIDTH;
    const int tiles = tiles_a_row * ((height + TILE_HEIGHT - 1) / TILE_HEIGHT);  // of an image

    // Weights, once: [step][tap][output][channel]
#pragma unroll 1
    for (int i = threadIdx.x; i < NUM_TAPS * CH * CHUNKS; i += THREADS) {
        const int c8 = i % CHUNKS, o = i / CHUNKS % CH, rest = i / (CHUNKS * CH);
        const u16* from;
        if (rest < 9 * CONV_STEPS) {
            const int tap = rest % 9, step = rest / 9;
            from = weight + ((size_t)(block * CH + o) * 9 + tap) * (C1 + C2) + step * CH + c8 * 8;
        } else {
            from = projection + (size_t)(block * CH + o) * (R1 + R2) + (rest - 9 * CONV_STEPS) * CH + c8 * 8;
        }
        copy16_async(weights_at + rest * TAP + swizzled(o, c8), from);
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
    // Up to here, the kernel before may still be running, if both are launched that way.
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");

    auto together = [&]() { asm volatile("bar.sync %0, %1;" ::"r"(unit + 1), "n"(UNIT) : "memory"); };
    const int total = images * tiles, own = warp % 4 * 16 + lane / 4, stride = gridDim.x * UNITS;
    const bool has_outputs = warp % 4 < CH / 16;
    float bias0 = 0, bias1 = 0;
    if (bias && has_outputs) bias0 = bf16(bias + block * CH + own), bias1 = bf16(bias + block * CH + own + 8);
    if (projection_bias && has_outputs)
        bias0 += bf16(projection_bias + block * CH + own), bias1 += bf16(projection_bias + block * CH + own + 8);

    float acc[ACC];

    // Factors and summands of the norm in front, for the channels of a step: a warp for each group.
    auto prepare = [&](int tile, int step) {
#if NORM
        if (warp < GROUPS && step < CONV_STEPS) {
            const int image = tile / tiles;
            const bool second = step >= C1 / CH;
            const int g = (second ? step - C1 / CH : step) * GROUPS + warp;
            const int parts = second ? parts2 : parts1;
            const float* s = (second ? stats2 : stats1) + ((size_t)image * ((second ? C2 : C1) / 32) + g) * parts * 3;
            float count = 0, sum = 0;
#pragma unroll 1
            for (int i = lane; i < parts; i += 32) {
                const float n = s[i * 3];
                count += n;
                sum += n * s[i * 3 + 1];
            }
            count = warp_sum(count);
            const float mean = __fdividef(warp_sum(sum), count);
            float m2 = 0;
#pragma unroll 1
            for (int i = lane; i < parts; i += 32) {
                const float d = s[i * 3 + 1] - mean;
                m2 += s[i * 3 + 2] + s[i * 3] * d * d;
            }
            const float rstd = rsqrtf(__fdividef(warp_sum(m2), count) + eps);
            const int c = step * CH + warp * 32 + lane;
            const float gain = (bf16(scale + (size_t)image * scale_stride + c) + ADAPTIVE) * rstd;
            gains[unit][warp * 32 + lane] = gain;
            offsets[unit][warp * 32 + lane] = bf16(shift + (size_t)image * shift_stride + c) - gain * mean;
        }
#endif
    };
    // From global to shared memory, normalised and activated on the way.
    auto place = [&](int tile, int step) {
        const int image = tile / tiles;
        const int top = tile % tiles / tiles_a_row * TILE_HEIGHT - 1;
        const int left = tile % tiles % tiles_a_row * TILE_WIDTH - 1;
        const bool conv = step < CONV_STEPS;
        const int piece = step < C1 / CH ? 0 : conv ? 1 : step < CONV_STEPS + R1 / CH ? 2 : 3;
        const u16* base = piece == 0 ? x1 : piece == 1 ? x2 : piece == 2 ? r1 : r2;
        const int channels = piece == 0 ? C1 : piece == 1 ? C2 : piece == 2 ? R1 : R2;
        const int before = piece == 0 ? 0 : piece == 1 ? C1 / CH : piece == 2 ? CONV_STEPS : CONV_STEPS + R1 / CH;
        const int first = step - before;
        const int enlarge = conv ? ENLARGE : 1, in_width = width / enlarge;
        const u16* from = base + (size_t)image * (height / enlarge) * in_width * channels + first * CH + chunk * 8;
        const u32 at = inputs_at + swizzled(thread / CHUNKS, chunk);
#if NORM
        float gain[8], offset[8];
        for (int k = 0; k < 8; ++k) {
            gain[k] = gains[unit][chunk * 8 + k];
            offset[k] = offsets[unit][chunk * 8 + k];
        }
#endif
        uint4 held[BATCH], next[BATCH];
        u32 inside = 0, next_inside;
        auto fetch = [&](int start) {
            next_inside = 0;
#pragma unroll
            for (int i = 0; i < BATCH; ++i) {
                const int pixel = thread / CHUNKS + (start + i) * AT_A_TIME;
                const int y = top + pixel / PITCH, x = left + pixel % PITCH;
                next[i] = make_uint4(0, 0, 0, 0);
                if (pixel < PIXELS && (u32)y < height && (u32)x < width) {
                    next[i] = load16(from + ((y / enlarge) * in_width + x / enlarge) * channels);
                    next_inside |= 1u << i;
                }
            }
        };
        fetch(0);
#pragma unroll 1  // the code of all would be larger than the cache for it
        for (int start = 0; start < ITERATIONS; start += BATCH) {
#pragma unroll
            for (int i = 0; i < BATCH; ++i) held[i] = next[i];
            inside = next_inside;
            if (start + BATCH < ITERATIONS) fetch(start + BATCH);
#pragma unroll
            for (int i = 0; i < BATCH; ++i) {
                const int pixel = thread / CHUNKS + (start + i) * AT_A_TIME;
                uint4 v = held[i];
#if NORM
                if (conv) {
                    uint4 z;
                    z.x = packed(silu(low(v.x) * gain[0] + offset[0]), silu(high(v.x) * gain[1] + offset[1]));
                    z.y = packed(silu(low(v.y) * gain[2] + offset[2]), silu(high(v.y) * gain[3] + offset[3]));
                    z.z = packed(silu(low(v.z) * gain[4] + offset[4]), silu(high(v.z) * gain[5] + offset[5]));
                    z.w = packed(silu(low(v.w) * gain[6] + offset[6]), silu(high(v.w) * gain[7] + offset[7]));
                    if (inside >> i & 1) v = z;
                }
#endif
                if (pixel < PIXELS) store16_shared(at + (start + i) * AT_A_TIME * 128, v);
            }
        }
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    };

    // Units take turns at the tensor cores: while one multiplies, the others load, normalise and store.
    auto turn = [&]() { asm volatile("bar.sync %0, %1;" ::"r"(8 + unit), "n"(2 * UNIT) : "memory"); };
    auto pass = [&](int to) { asm volatile("bar.arrive %0, %1;" ::"r"(8 + to), "n"(2 * UNIT) : "memory"); };

    int tile = blockIdx.x * UNITS + unit;
    const int rounds = (total - (int)blockIdx.x * UNITS + stride - 1) / stride;  // as many for every unit
    if (tile < total) prepare(tile, 0);
    together();
    if (tile < total) place(tile, 0);
    asm volatile("cp.async.wait_all;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    if (UNITS > 1 && unit == UNITS - 1) pass(0);

    for (int round = 0; round < rounds; ++round, tile += stride) {
        const bool idle = tile >= total;
        const int image = tile / tiles;
        const int top = tile % tiles / tiles_a_row * TILE_HEIGHT, left = tile % tiles % tiles_a_row * TILE_WIDTH;
        const size_t at = (size_t)image * height * width;
#pragma unroll 1
        for (int step = 0; step < STEPS; ++step) {
            const bool last = step == STEPS - 1;
            const int next_tile = last ? tile + stride : tile, next_step = last ? 0 : step + 1;
            const bool more = next_tile < total;
            const bool passes = UNITS > 1 && !(unit == UNITS - 1 && last && round == rounds - 1);

            if (UNITS > 1) turn();
            if (idle) {
                if (passes) pass((unit + 1) % UNITS);
                continue;
            }
            const bool conv = step < CONV_STEPS;
            u64 w = descriptor(weights_at + (conv ? step * 9 : 8 * CONV_STEPS + step) * TAP, 1024);
            const u64 a = descriptor(inputs_at + group * 8 * 128, PITCH * 128);
            if (step == 0)
                for (int i = 0; i < ACC; ++i) acc[i] = 0;
            const int first_tap = conv ? 0 : 4, last_tap = conv ? 8 : 4;
#pragma unroll 1
            for (int tap = first_tap; tap <= last_tap; ++tap, w += TAP / 16) {
                asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
                const u64 shifted = a + (tap / 3 * PITCH + tap % 3) * 8;
#pragma unroll
                for (int k = 0; k < CH / 16; ++k) product(acc, w + k * 2, shifted + k * 2);
                asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
            }
            const u32 staged = outputs_at + swizzled(thread / CHUNKS, chunk);  // a pixel's channels side by side
            if (RESIDUAL && last) {
#pragma unroll
                for (int i = 0; i < ROUNDS; ++i) {
                    const int pixel = thread / CHUNKS + i * AT_A_TIME;
                    const int y = top + pixel % NT / 8, x = left + pixel / NT * 8 + pixel % 8;
                    if (x < width && y < height)
                        copy16_async(staged + i * AT_A_TIME * 128,
                                     residual + (at + y * width + x) * out_channels + block * CH + chunk * 8);
                }
            }
            if (more) prepare(next_tile, next_step);
            if (passes) {
                asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");  // almost done
                pass((unit + 1) % UNITS);
            }
            asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
            HOLD
            asm volatile("cp.async.wait_all;" ::: "memory");
            together();  // all products of the tile are done with its inputs
            if (last) {
                // lane: a pixel of sixteen, and one of two blocks of eight channels
                const int pixel_of_16 = group * NT + lane % 8 + lane / 16 * 8;
                const u32 corner = outputs_at + swizzled(pixel_of_16, warp % 4 * 2 + lane / 8 % 2);
#pragma unroll
                for (int i = 0; i < NT / 16; ++i) {  // sixteen pixels
                    if (!has_outputs) continue;
                    u32 v[4] = {0, 0, 0, 0};
                    const u32 here = corner + i * 16 * 128;
                    if (RESIDUAL)
                        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                                     : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3]) : "r"(here) : "memory");
#pragma unroll
                    for (int j = 0; j < 4; ++j) {  // eight pixels, eight channels
                        const float* d = acc + (i * 2 + j / 2) * 4 + j % 2 * 2;
                        const float b = j % 2 ? bias1 : bias0;
                        if (RESIDUAL) v[j] = packed(d[0] + b + low(v[j]), d[1] + b + high(v[j]));
                        else v[j] = packed(d[0] + b, d[1] + b);
                    }
                    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(here),
                                 "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3]) : "memory");
                }
                together();
                uint4 y[ROUNDS];
                float sum = 0, count = 0;
                u32 valid = 0;
#pragma unroll
                for (int i = 0; i < ROUNDS; ++i) {
                    const int pixel = thread / CHUNKS + i * AT_A_TIME;
                    const int row = top + pixel % NT / 8, x = left + pixel / NT * 8 + pixel % 8;
                    y[i] = load16_shared(staged + i * AT_A_TIME * 128);
                    if (x < width && row < height) {
                        store16(out + (at + row * width + x) * out_channels + block * CH + chunk * 8, y[i]);
                        valid |= 1u << i;
                        count += 8;
                    } else {
                        y[i] = make_uint4(0, 0, 0, 0);
                    }
                    const uint4 v = y[i];
                    sum += (low(v.x) + high(v.x)) + (low(v.y) + high(v.y));
                    sum += (low(v.z) + high(v.z)) + (low(v.w) + high(v.w));
                }
                // over the lanes of a group: four blocks of channels, and four pixels or eight
                auto group_sum = [](float v) {
                    v += __shfl_xor_sync(0xffffffff, v, 1);
                    v += __shfl_xor_sync(0xffffffff, v, 2);
                    if (GROUPS == 1) v += __shfl_xor_sync(0xffffffff, v, 4);
                    v += __shfl_xor_sync(0xffffffff, v, 8);
                    return v + __shfl_xor_sync(0xffffffff, v, 16);
                };
                count = group_sum(count);
                const float mean = __fdividef(group_sum(sum), fmaxf(count, 1.0f));
                float m2 = 0;
#pragma unroll
                for (int i = 0; i < ROUNDS; ++i) {
                    const uint4 v = y[i];
                    float q = 0, d;
                    d = low(v.x) - mean, q += d * d, d = high(v.x) - mean, q += d * d;
                    d = low(v.y) - mean, q += d * d, d = high(v.y) - mean, q += d * d;
                    d = low(v.z) - mean, q += d * d, d = high(v.z) - mean, q += d * d;
                    d = low(v.w) - mean, q += d * d, d = high(v.w) - mean, q += d * d;
                    if (valid >> i & 1) m2 += q;
                }
                m2 = group_sum(m2);
                if (lane == 0 || (GROUPS == 2 && lane == 4)) {
                    float* s = partial[unit][warp][lane / 4];
                    s[0] = count;
                    s[1] = mean;
                    s[2] = m2;
                }
                together();
                if (warp == 0) {  // merges the warps' parts: lanes 0 to 15 the first group's, the others the second's
                    const float* s = partial[unit][lane % 16 < 4 * WARPGROUPS ? lane % 16 : 0][lane / 16 % GROUPS];
                    const bool mine = lane % 16 < 4 * WARPGROUPS;
                    auto sum16 = [](float v) {
                        for (int i = 8; i; i /= 2) v += __shfl_xor_sync(0xffffffff, v, i);
                        return v;
                    };
                    const float n = mine ? s[0] : 0, mu = mine ? s[1] : 0, q = mine ? s[2] : 0;
                    const float all = sum16(n), merged = __fdividef(sum16(n * mu), fmaxf(all, 1.0f));
                    const float squares = sum16(q + n * (mu - merged) * (mu - merged));
                    if (lane % 16 == 0 && lane / 16 < GROUPS) {
                        const size_t g = (size_t)image * (out_channels / 32) + block * GROUPS + lane / 16;
                        float* to = out_stats + (g * tiles + tile % tiles) * 3;
                        to[0] = all;
                        to[1] = merged;
                        to[2] = squares;
                    }
                }
            }
            if (more) place(next_tile, next_step);
            together();
        }
    }
}
