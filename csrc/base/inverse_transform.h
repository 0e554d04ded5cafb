/* Back through temperature and cap: for what is compared with logits that have been through both. */
#ifndef LL_INVERSE_TRANSFORM_H
#define LL_INVERSE_TRANSFORM_H

#include <math.h>

/* No logit below this becomes as large as `value`, nor equal to it. Both steps round, and tanh is
 * not quite monotonic in its last bits: 2^-20 of the value is more than they may be off by in
 * float32, the rest what they lose where they underflow. */
static inline double ll_inverse_transform(double value, double softcap, double temperature)
{
    if (!(softcap > 0) && temperature == 1)
        return value;
    double z = value * temperature;
    z -= 0x1p-20 * fabs(z) + 0x1p-140 * (softcap + temperature);
    if (!(softcap > 0))
        return z;
    return z > -softcap ? softcap * atanh(z / softcap) : -(double)INFINITY;
}

#endif
