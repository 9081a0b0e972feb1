/* The floor: the updates of a network with one hidden layer, and nothing else.
 *
 * Compiled by benchmarks/floors.py for one recipe: REAL is the type of a number; INPUTS, UNITS, CLASSES and BATCH are
 * sizes; ADAMW chooses the optimizer, SGD with momentum otherwise. UNITS is filled up to a multiple of LANES with units
 * whose weights are and stay 0, and LANES units are computed at once (vector types, which gcc and clang have).
 *
 * ReLU and cross entropy. Every update gives its loss, and the norms of the gradient and of the change, as the other
 * contenders do.
 */
#include <math.h>
#include <pthread.h>
#include <string.h>

#define LANES 8
#define BLOCKS (UNITS / LANES)

typedef REAL real;
typedef real lanes __attribute__((vector_size(LANES * sizeof(real))));

typedef struct {
    lanes first[INPUTS][BLOCKS], first_bias[BLOCKS]; /* weights (in, out) */
    lanes second[CLASSES][BLOCKS];                   /* weights (out, in) */
    real second_bias[(CLASSES + LANES - 1) / LANES * LANES];
} Parameters;

enum { PARTS = sizeof(Parameters) / sizeof(lanes) };

typedef struct {
    double momentum, weight_decay, beta1, beta2, eps;
} Rule;

/* One training: its rows (updates, BATCH, INPUTS), labels, the rows of each batch that count, learning rates; and
 * what changes: parameters, moments (two of each parameter), loss and norms (updates, 3). */
typedef struct {
    long updates;
    const real *rows;
    const int *labels, *counts;
    const real *rates;
    Parameters *parameters;
    lanes *moments;
    real *scalars;
    Rule rule;
} Training;

static inline real sum_of(lanes parts) {
    real sum = 0;
    for (int lane = 0; lane < LANES; lane++) sum += parts[lane];
    return sum;
}

/* What is chosen where `by` is above 0, and 0 elsewhere. */
static inline lanes positive(lanes chosen, lanes by) {
    typedef __typeof__(by > 0) mask;
    return (lanes)((mask)chosen & (by > 0));
}

/* The mean loss of a batch, and its gradient. */
static real gradient_of(const Parameters *p, Parameters *g, const real *x, const int *labels, int count) {
    lanes hidden[BATCH][BLOCKS], slope[BATCH][BLOCKS];
    real error[BATCH][CLASSES], loss = 0;
    for (int b = 0; b < count; b++) {
        real sum = 0, largest;
        lanes products[CLASSES] = {0};
        for (int j = 0; j < BLOCKS; j++) {
            lanes z = p->first_bias[j];
            for (int d = 0; d < INPUTS; d++) z += x[b * INPUTS + d] * p->first[d][j];
            hidden[b][j] = positive(z, z);
            for (int k = 0; k < CLASSES; k++) products[k] += hidden[b][j] * p->second[k][j];
        }
        for (int k = 0; k < CLASSES; k++) error[b][k] = p->second_bias[k] + sum_of(products[k]);
        largest = error[b][0];
        for (int k = 1; k < CLASSES; k++) largest = error[b][k] > largest ? error[b][k] : largest;
        loss += largest - error[b][labels[b]];
        for (int k = 0; k < CLASSES; k++) sum += error[b][k] = EXP(error[b][k] - largest);
        loss += LOG(sum);
        for (int k = 0; k < CLASSES; k++) error[b][k] = (error[b][k] / sum - (k == labels[b])) / count;
        for (int j = 0; j < BLOCKS; j++) {
            lanes back = {0};
            for (int k = 0; k < CLASSES; k++) back += error[b][k] * p->second[k][j];
            slope[b][j] = positive(back, hidden[b][j]);
        }
    }
    for (int j = 0; j < BLOCKS; j++) {
        lanes first[INPUTS] = {0}, bias = {0}, second[CLASSES] = {0};
        for (int b = 0; b < count; b++) {
            for (int d = 0; d < INPUTS; d++) first[d] += x[b * INPUTS + d] * slope[b][j];
            for (int k = 0; k < CLASSES; k++) second[k] += error[b][k] * hidden[b][j];
            bias += slope[b][j];
        }
        for (int d = 0; d < INPUTS; d++) g->first[d][j] = first[d];
        for (int k = 0; k < CLASSES; k++) g->second[k][j] = second[k];
        g->first_bias[j] = bias;
    }
    for (int k = 0; k < CLASSES; k++) {
        g->second_bias[k] = 0;
        for (int b = 0; b < count; b++) g->second_bias[k] += error[b][k];
    }
    return loss / count;
}

static inline lanes root_of(lanes parts) {
    for (int lane = 0; lane < LANES; lane++) parts[lane] = SQRT(parts[lane]);
    return parts;
}

/* One update, in place; the squares of the gradient and of the change. */
static void step(const Rule *rule, long update, real rate, lanes *restrict p, const lanes *restrict g,
                 lanes *restrict moments, lanes squares[2]) {
#if ADAMW
    const real kept = 1 - rate * (real)rule->weight_decay, eps = rule->eps, beta1 = rule->beta1, beta2 = rule->beta2;
    const real bias1 = 1 - pow(rule->beta1, update + 1), bias2 = 1 - pow(rule->beta2, update + 1);
#else
    const real momentum = rule->momentum, decay = rule->weight_decay;
    (void)update;
#endif
    squares[0] = squares[1] = (lanes){0};
    for (int i = 0; i < PARTS; i++) {
        lanes before = p[i];
#if ADAMW
        moments[i] = beta1 * moments[i] + (1 - beta1) * g[i];
        moments[i + PARTS] = beta2 * moments[i + PARTS] + (1 - beta2) * g[i] * g[i];
        p[i] = kept * before - rate * (moments[i] / bias1) / (root_of(moments[i + PARTS] / bias2) + eps);
#else
        moments[i] = momentum * moments[i] + g[i] + decay * before;
        p[i] = before - rate * moments[i];
#endif
        squares[0] += g[i] * g[i];
        squares[1] += (p[i] - before) * (p[i] - before);
    }
}

void train(const Training *t) {
    Parameters gradient;
    lanes squares[2];
    memset(&gradient, 0, sizeof gradient);
    for (long u = 0; u < t->updates; u++) {
        const real *x = t->rows + u * BATCH * INPUTS;
        real *scalars = t->scalars + 3 * u;
        scalars[0] = gradient_of(t->parameters, &gradient, x, t->labels + u * BATCH, t->counts[u]);
        step(&t->rule, u, t->rates[u], (lanes *)t->parameters, (const lanes *)&gradient, t->moments, squares);
        scalars[1] = SQRT(sum_of(squares[0]));
        scalars[2] = SQRT(sum_of(squares[1]));
    }
}

typedef struct {
    const Training *trainings;
    int begin, end;
} Share;

static void *train_share(void *argument) {
    const Share *share = argument;
    for (int i = share->begin; i < share->end; i++) train(share->trainings + i);
    return NULL;
}

/* Many trainings, shared out over threads. */
int train_all(const Training *trainings, int many, int threads) {
    pthread_t started[threads];
    Share shares[threads];
    int failed = 0, running = 0;
    for (int i = 0; i < threads; i++) {
        shares[i] = (Share){trainings, (int)((long)many * i / threads), (int)((long)many * (i + 1) / threads)};
        if (pthread_create(&started[i], NULL, train_share, &shares[i])) {
            failed = 1;
            break;
        }
        running++;
    }
    for (int i = 0; i < running; i++) pthread_join(started[i], NULL);
    return failed;
}
