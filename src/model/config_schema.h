/* config_schema.h - inference.ModelConfig as a schema; its rows are config_schema.def. */
#ifndef MODEL_CONFIG_SCHEMA_H
#define MODEL_CONFIG_SCHEMA_H

#include "model/schema.h"

extern const struct schema_message *const config_schema;

#endif
