/* The shapes of all kernels in one list: what suits an instruction set, and what must hold for any.
 * No bit depends on them; the constants that decide bits are at the top of logitless.h. */
#ifndef LL_SHAPES_H
#define LL_SHAPES_H

/* The number for LL_ISA. */
#define LL_FOR(avx512, avx2, neon, scalar) LL_JOIN(LL_FOR, LL_ISA)(avx512, avx2, neon, scalar)
#define LL_FOR_avx512(avx512, avx2, neon, scalar) avx512
#define LL_FOR_avx2(avx512, avx2, neon, scalar) avx2
#define LL_FOR_neon(avx512, avx2, neon, scalar) neon
#define LL_FOR_scalar(avx512, avx2, neon, scalar) scalar

/* Vectors take LL_PARTS registers each; this many there are. */
#define LL_REGISTERS         LL_FOR(  32,  16,  32, 999)

/* Micro-kernel (logits/gemm): rows by vectors of classes. Few rows take more vectors side by side:
 * LL_WIDE / rows. */
#define LL_MR                LL_FOR(  12,   6,   6,   4)
#define LL_NV                LL_FOR(   2,   1,   1,   1)
#define LL_WIDE              LL_FOR(   2,   4,   4,   4)
#define LL_STEPS             LL_FOR(   1,   4,   1,   1) /* features to a turn of its loop */
#define LL_B_AHEAD           LL_FOR(  64,   1,  64,  64) /* features that panels are fetched ahead */
#define LL_STREAM_AHEAD      128 /* the same where panels come from memory: */
#define LL_STREAM_LEAST      3   /* with so many rows they come slower than they are used; fewer */
#define LL_STREAM_MOST       48  /* take several panels at once, which come soon enough */
#define LL_TILE_ROWS         144 /* the tile stays in L2 */
#define LL_PACKED_TILE_ROWS  48  /* where packed weights come from there, too */

/* Few rows (logits/few_rows): memory delivers so many streams side by side faster than one. */
#define LL_STREAMS           4

/* Dot kernel (logits/few_classes): rows by classes, so many accumulators, of one register each. A
 * block of weights, in vectors, stays in L2 where that feeds the kernel, in L1 otherwise. */
#define LL_DOT_ROWS          LL_FOR(   4,   3,   3,   3)
#define LL_DOT_COLS          LL_FOR(   8,   4,   4,   4)
#define LL_DOT_CHAINS        LL_FOR(  24,  12,  12,  12)
#define LL_DOT_WEIGHTS       LL_FOR(2048, 256, 256, 256)
#define LL_DOT_GROUP         48  /* rows that pass by a block of weights together, at most */
#define LL_DOT_SUMS          384 /* their chains at most: 24 KiB, for L1 */

/* Transposed kernel (logits/few_classes_transposed): classes, two chains each. */
#define LL_TRANSPOSED_COLS   LL_FOR(   8,   3,   3,   3)
#define LL_TRANSPOSED_RATIO  10  /* of features to classes, at most */

/* Sparse rows (logits/sparse): panels of weights that an entry meets together, entries that weights
 * are fetched ahead; rows to a tile, in which they share what is cached of a panel. */
#define LL_ENTRY_PANELS      LL_FOR(   4,   2,   2,   2)
#define LL_ENTRIES_AHEAD     16
#define LL_SPARSE_TILE_ROWS  2016

/* bfloat16: classes whose weights are packed on the way at once; they stay in L2. */
#define LL_BF16_CLASSES      128

/* Gradients: vectors of features of weights that are packed at once; they stay in L2. */
#define LL_STRIP             8
/* With a filter: vectors of features that a list goes through at once. */
#define LL_CHAINS            LL_FOR(   8,   4,   4,   4)

/* Byte kernel (screen/bytes): rows by panels of classes; few rows by more panels. */
#define LL_BYTE_ROWS         LL_FOR(  12,   4,   4,   4)
#define LL_BYTE_WIDE         LL_FOR(   2,   1,   1,   1)
#define LL_BYTE_MOST         LL_FOR(   4,   1,   1,   1)
#define LL_SCAN_ROWS         24  /* of a tile, about: it stays in L1 */
#define LL_SCAN_STRIP        4   /* of these share what is loaded of the classes */
#define LL_RESCORE_PAIRS     4   /* candidates whose exact logits are computed together */
#define LL_CACHE_LINE        64
#define LL_FINE_AHEAD        4   /* candidates whose 16ths are fetched ahead */
#define LL_SECOND_PANELS     LL_FOR(   4,   2,   2,   2) /* those that take a second level together */

/* Classes that are folded into the state at once, and those of a span. */
#define LL_BLOCK (LL_BLOCK_VECS * LL_LANES)
#define LL_SPAN (LL_SPAN_BLOCKS * LL_BLOCK)
/* From the chains of a class to the next. */
#define LL_DOT_CLASS (LL_DOT_GROUP * LL_LANES)
/* Features that the transposed kernel takes: rows of x, transposed, stay in L1. */
#define LL_TRANSPOSED_K (LL_TRANSPOSED_RATIO * LL_SMALL_N)
/* LL_KC classes are a link of the chains of d_x. */
#define LL_CHUNKS (LL_BLOCK / LL_KC)

/* Lists for functions of each shape: of(1, with) of(2, with) ... */
#define LL_UP_TO_2(of, with) of(1, with) of(2, with)
#define LL_UP_TO_3(of, with) LL_UP_TO_2(of, with) of(3, with)
#define LL_UP_TO_4(of, with) LL_UP_TO_3(of, with) of(4, with)
#define LL_UP_TO_6(of, with) LL_UP_TO_4(of, with) of(5, with) of(6, with)
#define LL_UP_TO_8(of, with) LL_UP_TO_6(of, with) of(7, with) of(8, with)
#define LL_UP_TO_12(of, with)                                                                    \
    LL_UP_TO_8(of, with) of(9, with) of(10, with) of(11, with) of(12, with)

/* ---- what must hold ------------------------------------------------------------------------ */

#define LL_HOLDS(what) _Static_assert(what, #what)

LL_HOLDS(LL_LANES * sizeof(real) == 64); /* a virtual vector */
LL_HOLDS(LL_LANES % LL_PARTS == 0);

/* Contract: blocks are whole chunks, with room for lengths of lists; steps whole micro-panels. */
LL_HOLDS(LL_KC % LL_LANES == 0);
LL_HOLDS(LL_BLOCK % LL_KC == 0 && LL_CHUNKS <= LL_LANES);
LL_HOLDS(LL_SPARSE >= 2); /* pairs of class and derivative have the room of the row */
LL_HOLDS(LL_KC / LL_LANES <= 32);
LL_HOLDS(LL_GROUP_STEP % LL_MR == 0);
LL_HOLDS(LL_GROUP_ROWS % LL_GROUP_STEP == 0);
LL_HOLDS(LL_TILE_ROWS % LL_GROUP_STEP == 0);
LL_HOLDS(LL_PACKED_TILE_ROWS % LL_GROUP_STEP == 0);
LL_HOLDS(LL_SMALL_N <= LL_BLOCK);

/* Micro-kernel: accumulators, a vector of each panel and one of a row are in registers. Functions
 * are made for these shapes: LL_NV, and for few rows 1 by 4 and 2 by 2 or no others. */
LL_HOLDS((LL_MR * LL_NV + LL_NV) * LL_PARTS + 1 <= LL_REGISTERS);
LL_HOLDS(LL_WIDE * LL_PARTS < LL_REGISTERS);
LL_HOLDS((LL_NV == 2 && LL_WIDE == 2) || (LL_NV == 1 && LL_WIDE == 4));
LL_HOLDS(LL_STREAM_LEAST > 1);
LL_HOLDS(LL_CHAINS > 2 && LL_CHAINS % 2 == 0 && (LL_CHAINS + 1) * LL_PARTS < LL_REGISTERS);

/* Sparse rows: two sums of each panel. */
LL_HOLDS((LL_ENTRY_PANELS == 4 || LL_ENTRY_PANELS == 2)
         && (2 * LL_ENTRY_PANELS + 1) * LL_PARTS <= LL_REGISTERS);

/* Dot kernel: accumulators, a register of each row and one of a class. A group is a vector of rows
 * or more, a block a vector of features of each class. */
LL_HOLDS(LL_DOT_CHAINS + LL_DOT_ROWS + 1 <= LL_REGISTERS);
LL_HOLDS((LL_DOT_ROWS == 4 && LL_DOT_COLS == 8 && LL_DOT_CHAINS == 24)
         || (LL_DOT_ROWS == 3 && LL_DOT_COLS == 4 && LL_DOT_CHAINS == 12));
LL_HOLDS(LL_DOT_GROUP % LL_LANES == 0 && LL_DOT_SUMS >= LL_SMALL_N * LL_LANES);
LL_HOLDS(LL_DOT_WEIGHTS >= LL_SMALL_N);
LL_HOLDS((2 * LL_TRANSPOSED_COLS + 1) * LL_PARTS + 1 <= LL_REGISTERS);

/* Screen: panels are vectors of float32, and no sum of products of bytes leaves int32. */
LL_HOLDS(LL_SCREEN_LANES * sizeof(float) == 64);
LL_HOLDS(LL_SCREEN_BLOCK % LL_SCREEN_LANES == 0 && LL_DEALT_TOP <= LL_SCREEN_BLOCK / 2);
LL_HOLDS((int64_t)LL_SCREEN_K * 127 * 255 <= INT32_MAX);
LL_HOLDS((LL_BYTE_WIDE == 2 && LL_BYTE_MOST == 4) || (LL_BYTE_WIDE == 1 && LL_BYTE_MOST == 1));
LL_HOLDS(LL_BYTE_ROWS * LL_BYTE_WIDE < LL_REGISTERS);

#endif
