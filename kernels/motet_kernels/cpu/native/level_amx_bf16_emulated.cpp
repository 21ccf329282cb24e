// The AMX level with its tiles in software, for tests on processors without them.
#define MOTET_EMULATE_AMX
#include "level_amx_bf16.cpp"
