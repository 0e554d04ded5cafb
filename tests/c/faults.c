/* A module for Python that makes one thing fail: an allocation of NumPy's or of Python's memory, or
   nothing but the patience of whoever pressed Ctrl-C, at the n-th place where signals are looked at.

   Memory: the n-th allocation from now on, in whatever thread, gives nothing. NumPy's default handler
   is changed where it is, as threads have contexts, and with these handlers, of their own. */
#define PY_SSIZE_T_CLEAN
#define NPY_NO_DEPRECATED_API NPY_1_22_API_VERSION
#include <Python.h>
#include <numpy/arrayobject.h>

static int64_t allocations, failing; /* how many there were; which of them fails: 0 for none */
static int64_t looks, first, second; /* the same for signals; two may come */

static _Thread_local int spared;

static int fails(void)
{
    if (spared)
        return 0;
    int64_t which = __atomic_add_fetch(&allocations, 1, __ATOMIC_SEQ_CST);
    return which == __atomic_load_n(&failing, __ATOMIC_SEQ_CST);
}

static PyDataMem_Handler *handler;
static PyDataMemAllocator arrays;
static PyMemAllocatorEx usual[3];
static const PyMemAllocatorDomain domains[] = {
    PYMEM_DOMAIN_RAW, PYMEM_DOMAIN_MEM, PYMEM_DOMAIN_OBJ};

static void *array_malloc(void *context, size_t size)
{
    return fails() ? NULL : arrays.malloc(context, size);
}

static void *array_calloc(void *context, size_t count, size_t size)
{
    return fails() ? NULL : arrays.calloc(context, count, size);
}

static void *array_realloc(void *context, void *p, size_t size)
{
    return fails() ? NULL : arrays.realloc(context, p, size);
}

static void *any_malloc(void *context, size_t size)
{
    const PyMemAllocatorEx *all = context;
    return fails() ? NULL : all->malloc(all->ctx, size);
}

static void *any_calloc(void *context, size_t count, size_t size)
{
    const PyMemAllocatorEx *all = context;
    return fails() ? NULL : all->calloc(all->ctx, count, size);
}

static void *any_realloc(void *context, void *p, size_t size)
{
    const PyMemAllocatorEx *all = context;
    return fails() ? NULL : all->realloc(all->ctx, p, size);
}

static void any_free(void *context, void *p)
{
    const PyMemAllocatorEx *all = context;
    all->free(all->ctx, p);
}

/* starve(n, domains): the n-th allocation of NumPy's arrays fails, or of these domains of Python's
   memory: a bit for each. */
static PyObject *starve(PyObject *module, PyObject *arguments)
{
    long long which;
    int which_domains;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "Li", &which, &which_domains))
        return NULL;
    arrays = handler->allocator;
    handler->allocator.malloc = array_malloc;
    handler->allocator.calloc = array_calloc;
    handler->allocator.realloc = array_realloc;
    for (int i = 0; i < 3; i++) {
        PyMem_GetAllocator(domains[i], &usual[i]);
        if (which_domains >> i & 1) {
            PyMemAllocatorEx own = {&usual[i], any_malloc, any_calloc, any_realloc, any_free};
            PyMem_SetAllocator(domains[i], &own);
        }
    }
    allocations = 0;
    failing = which;
    Py_RETURN_NONE;
}

/* spare(): nothing fails in this thread. */
static PyObject *spare(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    spared = 1;
    Py_RETURN_NONE;
}

/* feed(): all is as it was; returns how many allocations there were. */
static PyObject *feed(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    failing = 0;
    handler->allocator = arrays;
    for (int i = 0; i < 3; i++)
        PyMem_SetAllocator(domains[i], &usual[i]);
    return PyLong_FromLongLong(allocations);
}

/* The handler of SIGINT, which has another one sent as long as it waits: so it is called wherever the
   interpreter or the extension looks for signals, and between two looks none of ours can come. */
static PyObject *on_signal(PyObject *module, PyObject *arguments)
{
    (void)module, (void)arguments;
    if (!first)
        Py_RETURN_NONE;
    looks++;
    if (looks < first || (looks > first && looks < second)) {
        PyErr_SetInterrupt();
        Py_RETURN_NONE;
    }
    if (looks < second)
        PyErr_SetInterrupt();
    PyErr_SetNone(PyExc_KeyboardInterrupt);
    return NULL;
}

/* interrupt(n, m): KeyboardInterrupt at the n-th look from now on, and again at the m-th. */
static PyObject *interrupt(PyObject *module, PyObject *arguments)
{
    long long n, m;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "LL", &n, &m))
        return NULL;
    looks = 0, first = n, second = m;
    PyErr_SetInterrupt();
    Py_RETURN_NONE;
}

/* calm(): no more of them; returns how many looks there were. */
static PyObject *calm(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    first = 0;
    return PyLong_FromLongLong(looks);
}

static PyMethodDef methods[] = {
    {"starve", starve, METH_VARARGS, NULL},
    {"spare", spare, METH_NOARGS, NULL},
    {"feed", feed, METH_NOARGS, NULL},
    {"on_signal", on_signal, METH_VARARGS, NULL},
    {"interrupt", interrupt, METH_VARARGS, NULL},
    {"calm", calm, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "faults", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_faults(void)
{
    import_array();
    handler = PyCapsule_GetPointer(PyDataMem_DefaultHandler, "mem_handler");
    return handler == NULL ? NULL : PyModule_Create(&definition);
}
