/* Divergences of two heads and their gradients, at once and block by block of classes. */
#ifndef DIVERGENCES_H
#define DIVERGENCES_H

#include "backwards.h"

/* A head that has met all classes, and kept their logits. */
static ll_job keep_all(const inputs *in)
{
    ll_job job = make_product(in, ROWS);

    job.question.fields = LL_FIELD(REST);
    make_state(&job, 1);
    job.output.keep = reals(table->keep_size(job.rows, job.n));
    job.output.keep_rows = job.rows;
    job.scratch = cache_lines(table->scratch_bytes(&job));
    table->score(&job);
    table->finish(&job, NULL);
    return job;
}

static uint64_t run_divergence(const inputs *in, const inputs *other, double beta, int by_block)
{
    int mine = n_blocks;
    ll_job student = keep_all(in), teacher = keep_all(other);
    ptrdiff_t m = student.rows, n = student.n, k = student.product.k, stride = m + 3;
    ptrdiff_t groups = (m + table->group(n) - 1) / table->group(n);
    ptrdiff_t step = by_block ? table->block : n;
    double *sums = array(3 * stride, sizeof(double));
    void *coefficients = zeros(LL_COEFFICIENTS * m);
    void *columns = reals((m + groups) * whole_vectors(k));
    ll_gradient gradient = {
        .coefficients = coefficients, .c_stride = m, .columns = columns, .d_x = zeros(m * k),
        .dx_row = k, .d_weight = zeros(n * k), .d_bias = zeros(n), .teacher = &teacher,
        .beta = beta, .means = sums + 2 * stride,
    };

    for (ptrdiff_t i = 0; i < 3 * stride; i++)
        sums[i] = 0;
    for (ptrdiff_t i = 0; i < m; i++)
        put(coefficients, i, i % 7 == 5 ? 0 : (double)(i % 5) / 4 - 0.375);
    for (ptrdiff_t c = 0; c < n; c += step) {
        ll_job part = classes(student, c, least(c + step, n));
        table->divergence(&part, &teacher, beta, sums, stride);
    }
    table->pack_columns(&student, &gradient, in->x, in->x_row, 0, m, columns);
    student.scratch = cache_lines(table->gradient_bytes(&student));
    for (ptrdiff_t c = 0; c < n; c += step) {
        ll_job part = classes(student, c, least(c + step, n));
        table->gradient_logits(&part, &gradient);
        into_x(&(backward){ 0 }, &part, &gradient);
    }
    start_hash();
    for (ptrdiff_t i = 0; i < 2 * m; i++) { /* as reals: a NaN is a NaN */
        put(coefficients, 0, sums[i / m * stride + i % m]);
        mix_reals(coefficients, 1);
    }
    mix_reals(gradient.d_x, m * k);
    mix_reals(gradient.d_weight, n * k);
    mix_reals(gradient.d_bias, n);
    release(mine);
    return hash;
}

static inline uint64_t try_divergence(const problem *p, double beta)
{
    problem q = *p;
    uint64_t value;
    inputs student = make_inputs(p), teacher;

    q.k = p->k / 2 + 1;
    q.softcap = 5;
    q.temperature = 0.8;
    teacher = make_inputs(&q);
    value = run_divergence(&student, &teacher, beta, 0);
    if (value != run_divergence(&student, &teacher, beta, 1)) {
        complain(p);
        fprintf(stderr, "the divergence %g has other bits block by block\n", beta);
    }
    release(0);
    return value;
}

#endif
