/* ort_api.h - the part of ONNX Runtime's C API that this backend calls.
 *
 * The API is one table of functions that only ever grows at the end, so a part of it can be
 * declared by position alone; its header is in no package. Names and types here are ours; each
 * member's comment gives its place in the table and its name in the public documentation
 * (onnxruntime.ai, struct OrtApi; the order is that of the project's header
 * include/onnxruntime/core/session/onnxruntime_c_api.h). runtime.c checks the places at compile
 * time, the tests each call against the real library.
 */
#ifndef BACKEND_ONNX_ORT_API_H
#define BACKEND_ONNX_ORT_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The first version whose table has every member below (1.15). A newer library gives this one. */
enum { ORT_API_VERSION_WANTED = 15 };

struct ort_status;  /* NULL is success */
struct ort_env;     /* logging and schemas; one per process */
struct ort_options; /* of a session */
struct ort_session; /* a loaded model */
struct ort_run;     /* options of one run: the terminate flag */
struct ort_value;   /* a tensor, sequence or map */
struct ort_type;    /* of an input or output */
struct ort_shape;   /* element type and dims */
struct ort_memory;  /* where memory lies */
struct ort_allocator; /* the library's, or one of ours */

/* The library asks for no member beyond these of an allocator that says this version. */
struct ort_allocator {
    uint32_t version;
    /* The library's own throws std::bad_alloc; nobody looks for NULL. */
    void *(*take)(struct ort_allocator *allocator, size_t size);
    void (*give)(struct ort_allocator *allocator, void *memory);
    const struct ort_memory *(*info)(const struct ort_allocator *allocator);
};

typedef void ort_log_fn(void *context, int level, const char *category, const char *id,
                        const char *where, const char *text);

enum { ORT_LOG_WARNING = 2, ORT_LOG_ERROR = 3, ORT_LOG_FATAL = 4 };
enum {
    ORT_OPTIMIZE_NONE = 0,
    ORT_OPTIMIZE_BASIC = 1,
    ORT_OPTIMIZE_EXTENDED = 2,
    ORT_OPTIMIZE_ALL = 99
};
enum { ORT_ALLOCATOR_DEVICE = 0, ORT_MEMORY_DEFAULT = 0 };

/* clang-format off */
enum ort_kind {
    ORT_KIND_UNKNOWN, ORT_KIND_TENSOR, ORT_KIND_SEQUENCE, ORT_KIND_MAP, ORT_KIND_OPAQUE,
    ORT_KIND_SPARSE, ORT_KIND_OPTIONAL
};

enum ort_code {
    ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2, ORT_NO_FILE = 3, ORT_NO_MODEL = 4, ORT_ENGINE = 5,
    ORT_EXCEPTION = 6, ORT_INVALID_PROTOBUF = 7, ORT_LOADED = 8, ORT_NOT_IMPLEMENTED = 9,
    ORT_INVALID_GRAPH = 10, ORT_PROVIDER = 11
};

/* Element types, numbered as in ONNX's TensorProto. */
enum ort_dtype {
    ORT_FP32 = 1, ORT_UINT8 = 2, ORT_INT8 = 3, ORT_UINT16 = 4, ORT_INT16 = 5, ORT_INT32 = 6,
    ORT_INT64 = 7, ORT_STRING = 8, ORT_BOOL = 9, ORT_FP16 = 10, ORT_FP64 = 11, ORT_UINT32 = 12,
    ORT_UINT64 = 13, ORT_BF16 = 16
};

struct ort_api {
    void *unused_0[1];
    /* 1 GetErrorCode */
    int (*status_code)(const struct ort_status *status);
    /* 2 GetErrorMessage */
    const char *(*status_text)(const struct ort_status *status);
    void *unused_3[1];
    /* 4 CreateEnvWithCustomLogger */
    struct ort_status *(*env_create)(ort_log_fn *log, void *context, int level, const char *id,
                                     struct ort_env **ret);
    void *unused_5[1];
    /* 6 DisableTelemetryEvents */
    struct ort_status *(*telemetry_off)(const struct ort_env *env);
    void *unused_7[1];
    /* 8 CreateSessionFromArray */
    struct ort_status *(*session_create)(const struct ort_env *env, const void *model, size_t size,
                                         const struct ort_options *options,
                                         struct ort_session **ret);
    /* 9 Run */
    struct ort_status *(*run)(struct ort_session *session, const struct ort_run *run,
                              const char *const *input_names,
                              const struct ort_value *const *inputs, size_t inputs_count,
                              const char *const *output_names, size_t outputs_count,
                              struct ort_value **outputs);
    /* 10 CreateSessionOptions */
    struct ort_status *(*options_create)(struct ort_options **ret);
    void *unused_11[2];
    /* 13 SetSessionExecutionMode */
    struct ort_status *(*options_set_mode)(struct ort_options *options, int is_parallel);
    void *unused_14[3];
    /* 17 DisableMemPattern */
    struct ort_status *(*options_pattern_off)(struct ort_options *options);
    void *unused_18[1];
    /* 19 DisableCpuMemArena */
    struct ort_status *(*options_arena_off)(struct ort_options *options);
    /* 20 SetSessionLogId */
    struct ort_status *(*options_set_log_id)(struct ort_options *options, const char *id);
    void *unused_21[1];
    /* 22 SetSessionLogSeverityLevel */
    struct ort_status *(*options_set_log_level)(struct ort_options *options, int level);
    /* 23 SetSessionGraphOptimizationLevel */
    struct ort_status *(*options_set_optimization)(struct ort_options *options, int level);
    /* 24 SetIntraOpNumThreads */
    struct ort_status *(*options_set_intra)(struct ort_options *options, int threads);
    /* 25 SetInterOpNumThreads */
    struct ort_status *(*options_set_inter)(struct ort_options *options, int threads);
    void *unused_26[4];
    /* 30 SessionGetInputCount */
    struct ort_status *(*inputs_count)(const struct ort_session *session, size_t *ret);
    /* 31 SessionGetOutputCount */
    struct ort_status *(*outputs_count)(const struct ort_session *session, size_t *ret);
    /* 32 SessionGetOverridableInitializerCount */
    struct ort_status *(*overridable_count)(const struct ort_session *session, size_t *ret);
    /* 33 SessionGetInputTypeInfo */
    struct ort_status *(*input_type)(const struct ort_session *session, size_t index,
                                     struct ort_type **ret);
    /* 34 SessionGetOutputTypeInfo */
    struct ort_status *(*output_type)(const struct ort_session *session, size_t index,
                                      struct ort_type **ret);
    /* 35 SessionGetOverridableInitializerTypeInfo */
    struct ort_status *(*overridable_type)(const struct ort_session *session, size_t index,
                                           struct ort_type **ret);
    /* 36 SessionGetInputName */
    struct ort_status *(*input_name)(const struct ort_session *session, size_t index,
                                     struct ort_allocator *allocator, char **ret);
    /* 37 SessionGetOutputName */
    struct ort_status *(*output_name)(const struct ort_session *session, size_t index,
                                      struct ort_allocator *allocator, char **ret);
    /* 38 SessionGetOverridableInitializerName */
    struct ort_status *(*overridable_name)(const struct ort_session *session, size_t index,
                                           struct ort_allocator *allocator, char **ret);
    /* 39 CreateRunOptions */
    struct ort_status *(*run_create)(struct ort_run **ret);
    void *unused_40[6];
    /* 46 RunOptionsSetTerminate */
    struct ort_status *(*run_terminate)(struct ort_run *run);
    /* 47 RunOptionsUnsetTerminate */
    struct ort_status *(*run_unterminate)(struct ort_run *run);
    /* 48 CreateTensorAsOrtValue */
    struct ort_status *(*value_create)(struct ort_allocator *allocator, const int64_t *shape,
                                       size_t rank, int type, struct ort_value **ret);
    /* 49 CreateTensorWithDataAsOrtValue */
    struct ort_status *(*value_wrap)(const struct ort_memory *memory, void *data, size_t size,
                                     const int64_t *shape, size_t rank, int type,
                                     struct ort_value **ret);
    void *unused_50[1];
    /* 51 GetTensorMutableData */
    struct ort_status *(*value_data)(struct ort_value *value, void **ret);
    void *unused_52[1];
    /* 53 GetStringTensorDataLength */
    struct ort_status *(*strings_size)(const struct ort_value *value, size_t *ret);
    /* 54 GetStringTensorContent */
    struct ort_status *(*strings_content)(const struct ort_value *value, void *ret, size_t size,
                                          size_t *ret_offsets, size_t offsets_count);
    /* 55 CastTypeInfoToTensorInfo */
    struct ort_status *(*type_as_tensor)(const struct ort_type *type, const struct ort_shape **ret);
    /* 56 GetOnnxTypeFromTypeInfo */
    struct ort_status *(*type_kind)(const struct ort_type *type, int *ret);
    void *unused_57[3];
    /* 60 GetTensorElementType */
    struct ort_status *(*shape_dtype)(const struct ort_shape *shape, int *ret);
    /* 61 GetDimensionsCount */
    struct ort_status *(*shape_rank)(const struct ort_shape *shape, size_t *ret);
    /* 62 GetDimensions */
    struct ort_status *(*shape_dims)(const struct ort_shape *shape, int64_t *ret, size_t rank);
    /* 63 GetSymbolicDimensions */
    struct ort_status *(*shape_symbols)(const struct ort_shape *shape, const char **ret,
                                        size_t rank);
    void *unused_64[1];
    /* 65 GetTensorTypeAndShape */
    struct ort_status *(*value_shape)(const struct ort_value *value, struct ort_shape **ret);
    void *unused_66[3];
    /* 69 CreateCpuMemoryInfo */
    struct ort_status *(*memory_create)(int allocator, int kind, struct ort_memory **ret);
    void *unused_70[6];
    /* 76 AllocatorFree */
    struct ort_status *(*allocator_free)(struct ort_allocator *allocator, void *memory);
    void *unused_77[1];
    /* 78 GetAllocatorWithDefaultOptions */
    struct ort_status *(*allocator_default)(struct ort_allocator **ret);
    void *unused_79[13];
    /* 92 ReleaseEnv */
    void (*env_release)(struct ort_env *env);
    /* 93 ReleaseStatus */
    void (*status_release)(struct ort_status *status);
    /* 94 ReleaseMemoryInfo */
    void (*memory_release)(struct ort_memory *memory);
    /* 95 ReleaseSession */
    void (*session_release)(struct ort_session *session);
    /* 96 ReleaseValue */
    void (*value_release)(struct ort_value *value);
    /* 97 ReleaseRunOptions */
    void (*run_release)(struct ort_run *run);
    /* 98 ReleaseTypeInfo */
    void (*type_release)(struct ort_type *type);
    /* 99 ReleaseTensorTypeAndShapeInfo */
    void (*shape_release)(struct ort_shape *shape);
    /* 100 ReleaseSessionOptions */
    void (*options_release)(struct ort_options *options);
    void *unused_101[24];
    /* 125 GetAvailableProviders */
    struct ort_status *(*providers_list)(char ***ret, int *ret_count);
    void *unused_126[4];
    /* 130 AddSessionConfigEntry */
    struct ort_status *(*options_set)(struct ort_options *options, const char *key,
                                      const char *value);
    void *unused_131[45];
    /* 176 RegisterAllocator */
    struct ort_status *(*allocator_register)(struct ort_env *env, struct ort_allocator *allocator);
    void *unused_177[39];
    /* 216 SessionOptionsAppendExecutionProvider */
    struct ort_status *(*options_add_provider)(struct ort_options *options, const char *name,
                                               const char *const *keys,
                                               const char *const *values, size_t count);
    void *unused_217[35];
    /* 252 GetResizedStringTensorElementBuffer */
    struct ort_status *(*string_buffer)(struct ort_value *value, size_t index, size_t size,
                                        char **ret);
};
/* clang-format on */

/* From a table of version 1.24 or later: does anybody know the shape, or is its rank of 0 only
 * silence? (390 TensorTypeAndShape_HasShape) */
typedef bool ort_has_shape_fn(const struct ort_shape *shape);
enum { ORT_HAS_SHAPE_VERSION = 24, ORT_HAS_SHAPE_PLACE = 390 };

/* What the library exports as OrtGetApiBase(). */
struct ort_base {
    const struct ort_api *(*api)(uint32_t version); /* NULL when the library is older */
    const char *(*version)(void);                   /* "1.31.1" */
};
typedef const struct ort_base *ort_get_base_fn(void);

#endif
