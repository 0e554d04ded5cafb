/* What the programs here need around the kernels: memory, numbers, problems, and the hash.
 *
 * Inputs come from integer arithmetic, so they are the same everywhere. Every array has exactly
 * the documented size, and lies one element (AHEAD) off the alignment of malloc: a build with
 * sanitizers sees whatever the kernels do beyond that.
 */
#ifndef INPUTS_H
#define INPUTS_H

#define _POSIX_C_SOURCE 200112L /* posix_memalign */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "logitless.h"

#ifndef AHEAD
#define AHEAD 1
#endif

static const ll_kernels *table; /* the kernels at work, and their precision */
static int bits;
static size_t item;

/* ---- memory -------------------------------------------------------------------------------- */

static void *blocks[256];
static int n_blocks;

static void *keep(void *p)
{
    if (!p || n_blocks == (int)(sizeof blocks / sizeof *blocks)) {
        fprintf(stderr, "out of memory\n");
        exit(2);
    }
    return blocks[n_blocks++] = p;
}

static void *array(ptrdiff_t count, size_t size)
{
    size_t bytes = ((size_t)count + AHEAD) * size;
    return (char *)keep(malloc(bytes ? bytes : 1)) + AHEAD * size;
}

static inline void *reals(ptrdiff_t count) { return array(count, item); }
static inline int64_t *integers(ptrdiff_t count) { return array(count, sizeof(int64_t)); }

static inline void *cache_lines(size_t size)
{
    void *p;
    return keep(posix_memalign(&p, 64, size) ? NULL : p);
}

static void release(int down_to)
{
    while (n_blocks > down_to)
        free(blocks[--n_blocks]);
}

static inline void put(void *p, ptrdiff_t i, double value)
{
    if (bits == 32)
        ((float *)p)[i] = (float)value;
    else
        ((double *)p)[i] = value;
}

static const void *at(const void *p, ptrdiff_t i)
{
    return p ? (const char *)p + (size_t)i * item : NULL;
}

static inline double get(const void *p, ptrdiff_t i)
{
    return bits == 32 ? (double)((const float *)p)[i] : ((const double *)p)[i];
}

static inline void copy(void *to, ptrdiff_t i, const void *from, ptrdiff_t j)
{
    memcpy((char *)to + (size_t)i * item, at(from, j), item);
}

/* ---- inputs -------------------------------------------------------------------------------- */

static uint64_t seed;

static uint64_t draw(void) /* splitmix64 */
{
    uint64_t z = seed += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* In [-1, 1), with as many digits as the type holds. */
static inline double unit(void)
{
    if (bits == 32)
        return (double)((int64_t)(draw() >> 39) - ((int64_t)1 << 24)) * 0x1p-24;
    return (double)((int64_t)(draw() >> 10) - ((int64_t)1 << 53)) * 0x1p-53;
}

static inline void *zeros(ptrdiff_t count)
{
    void *p = reals(count);
    for (ptrdiff_t i = 0; i < count; i++)
        put(p, i, 0);
    return p;
}

static inline void from_bits(void *p, ptrdiff_t i, uint64_t pattern)
{
    uint32_t low = (uint32_t)pattern;
    if (bits == 32)
        memcpy((float *)p + i, &low, sizeof low);
    else
        memcpy((double *)p + i, &pattern, sizeof pattern);
}

static inline double infinity(void) { return 1e308 * 10; }
static inline double not_a_number(void) { return infinity() - infinity(); }

typedef struct {
    const char *name;
    ptrdiff_t m, n, k;
    double scale, offset;         /* of the weights; of the bias */
    double softcap, temperature;
    /* TEMPERED: rows have one each */
    enum { ORDINARY, SPECIAL, SPOILT, TEMPERED, SIGNED_ZEROS } kind;
} problem;

typedef struct {
    const problem *p;
    ptrdiff_t x_row, w_row, w_col, p_row;
    void *x, *packed_x, *weight, *columns, *panels, *bias, *probs, *prob_columns;
    void *logits, *logit_columns; /* filled by the first run */
    double *temperatures;         /* or NULL */
    int64_t *targets;
    /* Of gradients alone. */
    void *class_weight, *sparse_prob, *coefficients, *x_with_nan;
    int64_t *sparse_start, *sparse_class;
    ptrdiff_t c_stride;
    /* The same weights held in 16 bits, and rows of bfloat16: narrow.c. */
    int type;                     /* LL_REALS: there are none */
    const ll_bf16 *product;       /* NULL: rows are reals */
    uint16_t *narrow_x, *narrow_weight, *narrow_columns;
    uint32_t *words;
    void *packed_narrow_x;
} inputs;

static inline ptrdiff_t whole_vectors(ptrdiff_t count)
{
    return (count + table->lanes - 1) / table->lanes * table->lanes;
}

static inline inputs make_inputs(const problem *p)
{
    inputs in = { .p = p, .x_row = p->k + 3, .w_row = p->k + 1, .w_col = p->n + 2,
                  .p_row = p->n + 1 };

    seed = (uint64_t)(p->m * 1000003 + p->n * 1009 + p->k);
    in.x = reals((p->m - 1) * in.x_row + p->k);
    for (ptrdiff_t i = 0; i < p->m; i++)
        for (ptrdiff_t j = 0; j < p->k; j++)
            put(in.x, i * in.x_row + j, unit());
    in.weight = reals((p->n - 1) * in.w_row + p->k);
    in.columns = reals(p->k ? (p->k - 1) * in.w_col + p->n : 0);
    for (ptrdiff_t c = 0; c < p->n; c++)
        for (ptrdiff_t j = 0; j < p->k; j++) {
            put(in.weight, c * in.w_row + j, unit() * p->scale);
            copy(in.columns, c + j * in.w_col, in.weight, c * in.w_row + j);
        }
    in.bias = reals(p->n);
    for (ptrdiff_t c = 0; c < p->n; c++)
        put(in.bias, c, unit() * 4 + p->offset);
    in.probs = reals((p->m - 1) * in.p_row + p->n);
    in.prob_columns = reals(p->m * p->n);
    for (ptrdiff_t i = 0; i < p->m; i++)
        for (ptrdiff_t c = 0; c < p->n; c++) {
            double t = unit();
            put(in.probs, i * in.p_row + c, t > 0 ? t : 0);
            copy(in.prob_columns, i + c * p->m, in.probs, i * in.p_row + c);
        }
    in.targets = integers(2 * p->m);
    for (ptrdiff_t i = 0; i < 2 * p->m; i++)
        in.targets[i] = i % 11 == 9 ? -1 : (int64_t)(draw() % (uint64_t)p->n);

    for (ptrdiff_t c = 0; p->kind == SPECIAL && c < p->n; c++)
        if (c % 7 == 3 || c > p->n * 3 / 4)
            put(in.bias, c, -infinity());
    if (p->kind == SPECIAL) {
        put(in.x, 2 * in.x_row, not_a_number());
        put(in.x, 4 * in.x_row + p->k - 1, infinity());
        put(in.x, 5 * in.x_row, -infinity());
    }
    if (p->kind == TEMPERED)
        in.temperatures = array(p->m, sizeof(double));
    for (ptrdiff_t i = 0; p->kind == TEMPERED && i < p->m; i++)
        in.temperatures[i] = i % 3 ? p->temperature + (double)i / 16 : 1;
    if (p->n > LL_SMALL_N) {
        in.panels = reals(whole_vectors(p->n) * p->k);
        table->pack_weight(in.weight, p->n, p->k, in.w_row, 1, in.panels);
        in.packed_x = reals(p->m * p->k + table->lanes);
        table->pack_x(in.x, p->m, p->k, in.x_row, in.packed_x);
    }
    in.logits = reals(p->m * p->n);
    in.logit_columns = reals(p->m * p->n);
    return in;
}

/* What a loss is made of, beside its target. */
enum {
    WEIGHTED = 1, /* classes have weights, and every class a part of the target */
    MIXED = 2,    /* rows without a target have probabilities; else they do not count */
    FILTERED = 4, /* small derivatives are left out */
    ADDED = 8,    /* to what is there */
    ENTROPIC = 16 /* the entropy has a part in the loss */
};

/* The probabilities again, without zeros. */
static inline void make_sparse(inputs *in)
{
    const problem *p = in->p;
    int64_t entries = 0;

    in->sparse_start = integers(p->m + 1);
    in->sparse_class = integers(p->m * p->n);
    in->sparse_prob = reals(p->m * p->n);
    for (ptrdiff_t i = 0; i < p->m; i++) {
        in->sparse_start[i] = entries;
        for (ptrdiff_t c = 0; c < p->n; c++)
            if (get(in->probs, i * in->p_row + c) != 0) {
                in->sparse_class[entries] = c;
                copy(in->sparse_prob, entries++, in->probs, i * in->p_row + c);
            }
    }
    in->sparse_start[p->m] = entries;
}

/* Some classes become unlikely, and no target but those of the second of three steps. */
static inline void make_unlikely(inputs *in)
{
    const problem *p = in->p;

    for (ptrdiff_t c = 0; c < p->n; c++)
        if ((c / LL_KC + 1) % 4 > 1)
            put(in->bias, c, get(in->bias, c) - 30);
    for (ptrdiff_t i = 0; i < p->m; i++)
        if (in->targets[i] >= 0 && i / LL_GROUP_STEP % 3 != 1)
            in->targets[i] = in->targets[i] % LL_KC;
}

static inline void make_gradient_inputs(inputs *in, int options)
{
    const problem *p = in->p;
    ptrdiff_t x_size = (p->m - 1) * in->x_row + p->k;

    if (options & FILTERED)
        make_unlikely(in);
    in->class_weight = reals(whole_vectors(p->n));
    for (ptrdiff_t c = 0; c < whole_vectors(p->n); c++)
        put(in->class_weight, c, c < p->n && c % 9 != 4 ? unit() + 1 : 0);
    make_sparse(in);
    in->c_stride = p->m + 5;
    in->x_with_nan = memcpy(reals(x_size), in->x, (size_t)x_size * item);
    in->coefficients = reals((LL_COEFFICIENTS - 1) * in->c_stride + p->m);
    for (ptrdiff_t i = 0; i < p->m; i++) {
        int soft = in->targets[i] < 0, counts = i % 8 != 5 && (!soft || options & MIXED);
        double factor = counts ? unit() * 2 : 0, smooth = options & WEIGHTED ? 0.125 : 0;
        double part[LL_COEFFICIENTS];

        part[LL_SOFTMAX] = factor * (1 + 2 * smooth);
        part[LL_TARGET] = soft ? 0 : factor * (1 - smooth);
        part[LL_PROBS] = soft ? factor * (1 - smooth) : 0;
        part[LL_GIVEN] = 0;
        part[LL_SMOOTH] = factor * smooth / (double)p->n;
        part[LL_ENTROPY] = options & ENTROPIC ? factor * (double)(i % 3 - 1) / 4 : 0;
        /* A row that does not count has a limit, too; of one in three little is left. */
        part[LL_LIMIT] = (counts ? factor < 0 ? -factor : factor : 1) * (i % 3 ? 0x1p-9 : 0x1p-7);
        for (ptrdiff_t which = 0; which < LL_COEFFICIENTS; which++)
            put(in->coefficients, which * in->c_stride + i, part[which]);
        for (ptrdiff_t j = 0; !counts && j < p->k; j++)
            put(in->x_with_nan, i * in->x_row + j, not_a_number());
    }
}

/* Rows of given logits that no product makes: i decides what is wrong with the row. */
static inline void spoil(void *z, ptrdiff_t m, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < m; i++)
        for (ptrdiff_t c = 0; c < n; c++) {
            int first = c == 0, last = c == n - 1;
            double nan = not_a_number(), inf = infinity();
            ptrdiff_t to = i * n + c;
            switch (i % 16) {
            case 1: if (first) put(z, to, nan); break;
            case 2: if (last) put(z, to, nan); break;
            case 3: if (c % 5 == 2) put(z, to, nan); break;
            case 4: put(z, to, nan); break;
            case 5: if (first) put(z, to, inf); break;
            case 6: if (last) put(z, to, inf); break;
            case 7: if (c % 2) put(z, to, inf); break;
            case 8: put(z, to, -inf); break;
            case 9: if (!last) put(z, to, -inf); break;
            case 10: if (!first) put(z, to, -inf); break;
            case 11: put(z, to, c % 2 ? 0.0 : -0.0); break;
            case 12: put(z, to, bits == 32 ? 0x1.8p127 : 0x1.8p1023); break;
            case 13: put(z, to, (double)c * -0x1p-3); break;
            case 14: put(z, to, (double)c * 0x1p-3); break;
            case 15: put(z, to, (double)(c * c % 7) * 100); break;
            }
        }
}

/* Given logits of which zeros, of either sign in any order, are the largest. */
static inline void put_zeros(void *z, ptrdiff_t count)
{
    for (ptrdiff_t i = 0; i < count; i++) {
        const uint64_t r = draw() >> 61;
        put(z, i, r < 4 ? -1.0 : r % 2 ? 0.0 : -0.0);
    }
}

/* ---- hash ---------------------------------------------------------------------------------- */

/* 64-bit FNV-1a of the low bytes of a number; a NaN is a NaN whatever its payload. */
static uint64_t hash;

static void mix(uint64_t value, size_t bytes)
{
    for (; bytes; bytes--, value >>= 8)
        hash = (hash ^ (value & 0xff)) * 0x100000001b3u;
}

static void mix_reals(const void *p, ptrdiff_t count)
{
    for (ptrdiff_t i = 0; i < count; i++) {
        uint64_t pattern = 0;
        uint32_t low;
        if (bits == 32) {
            memcpy(&low, at(p, i), sizeof low);
            pattern = (low & 0x7fffffff) > 0x7f800000 ? 0x7fc00000 : low;
        } else {
            memcpy(&pattern, at(p, i), sizeof pattern);
            if ((pattern & 0x7fffffffffffffff) > 0x7ff0000000000000)
                pattern = 0x7ff8000000000000;
        }
        mix(pattern, item);
    }
}

static inline void mix_integers(const int64_t *p, ptrdiff_t count)
{
    for (ptrdiff_t i = 0; i < count; i++)
        mix((uint64_t)p[i], sizeof *p);
}

static void start_hash(void) { hash = 0xcbf29ce484222325u; }

#endif
