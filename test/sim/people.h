/* people.h - the clients of a simulated server: who they are, what they ask, what they must get.
 *
 * A person lives in events and ends by itself; people_ended says how many are left. Judgements:
 * what a person was answered is right, or is an error that the weather or the person itself
 * explains.
 */
#ifndef SIM_PEOPLE_H
#define SIM_PEOPLE_H

#include "test/sim/sim.h"

enum { PORT = 8000 };

/* -- bytes that grow --------------------------------------------------------------------------- */
struct bytes {
    uint8_t *data;
    size_t size, room;
};
void sim_bytes_put(struct bytes *b, const void *data, size_t size);
void sim_bytes_text(struct bytes *b, const char *text);
void sim_bytes_printf(struct bytes *b, const char *format, ...) PRINTF_LIKE(2, 3);
void sim_bytes_drop(struct bytes *b, size_t size); /* from the front */
bool sim_bytes_is(const struct bytes *b, const char *text, size_t size);
const char *sim_bytes_find(const struct bytes *b, const char *text); /* NULL: it is not there */

/* -- the world --------------------------------------------------------------------------------- */
struct world {
    bool is_stopping; /* SIGTERM was sent: answers may be refused, connections ended */
    bool must_answer; /* nothing fails any more: what is asked now is answered rightly */
    bool is_ready;    /* every model is loaded, and nothing but weather stands in the way */
    bool has_tls;     /* the port speaks both */
    uint32_t people_left;
    uint64_t answers_right, answers_refused, answers_lost; /* that were asked for */
    char kinds[16][16]; /* what was asked and answered rightly, for --verbose and the tests */
    uint64_t kinds_count[16];
};
extern struct world sim_world;
void sim_world_count(const char *kind); /* one right answer */
/* May a right question be refused, or its connection break? */
bool sim_world_may_refuse(void);
/* One of the server's own gauges, as text of /metrics has it. */
void sim_person_begins(void);
void sim_person_ends(void);

/* -- one connection, its output paced ---------------------------------------------------------- */
struct line {
    struct link *link;
    struct bytes out;
    size_t burst;           /* bytes sent at once; 0: all */
    uint64_t pause_ns;      /* between bursts */
    uint64_t read_pause_ns; /* a slow reader: between looks */
    bool is_pacing, is_looking;
    bool will_finish; /* half-close behind what is to be sent */
    bool is_over;
    bool is_plain, is_http2;     /* never under TLS; which protocol it asks for */
    struct ssl_st *tls;          /* NULL: plain */
    struct bytes sealed, opened; /* under TLS: to be sent, to be taken */
    bool is_broken, is_closing;
    void (*on_look)(struct line *line); /* something may have arrived */
    void (*on_over)(struct line *line, bool is_reset);
};
void sim_line_open(struct line *line); /* with on_look and on_over set */
void sim_line_say(struct line *line);  /* what was put into `out` is sent */
/* What has arrived: borrowed until it is taken. */
const uint8_t *sim_line_bytes(struct line *line, size_t *ret_size);
void sim_line_take(struct line *line, size_t size);
void sim_tls_setup(void); /* once in a process */
void sim_tls_begin(struct line *line);
void sim_tls_pump(struct line *line);
void sim_line_close(struct line *line);
void sim_line_reset(struct line *line);
uint32_t sim_line_id(const struct line *line);

/* -- HTTP/1.1 ---------------------------------------------------------------------------------- */
struct answer {
    int status;
    struct bytes head, body;
    bool is_closing; /* connection: close */
};
/* Header's value as text, lower-case name; NULL: it is not there. */
const char *sim_answer_header(const struct answer *answer, const char *name);

struct ask {
    char kind[16];
    const char *method;
    char target[128];
    char headers[128]; /* as HTTP/1.1 has them */
    struct bytes body;
    bool has_body;
    struct bytes request;  /* all of it, as HTTP/1.1 has it */
    struct bytes expected; /* the body of a 200 */
    int status;            /* expected */
    bool is_ready_only;    /* a 503 is right too: before all is loaded, and while draining */
    bool is_prefix;        /* expected is how the body begins */
    bool is_head;
    bool is_early; /* asked before all was loaded */
};
/* A question with its answer. */
void sim_ask_draw(struct ask *ask, size_t bytes_most);
void sim_ask_make(struct ask *ask, const char *kind, size_t bytes_most); /* of one kind */
void sim_ask_set(struct ask *ask, const char *method, const char *target, const char *headers,
                 const struct bytes *body);
/* Is it right? Fails the seed when it is neither right nor explained. */
void sim_ask_judge(const struct ask *ask, const struct answer *answer, uint32_t id);

/* One question each, by somebody patient: for sweeps. */
void sim_http1_one(const char *kind);
void sim_http2_one(const char *form);
void sim_websocket_one(void);
void sim_upload_one(void);
void sim_http1_person(void);
void sim_http1_spoiler(void); /* sends what is nearly HTTP */
void sim_websocket_person(void);
void sim_upload_person(void);
void sim_http2_person(void);
void sim_inspector_begin(void (*on_end)(void)); /* looks at /metrics: all must be at rest */

#endif
