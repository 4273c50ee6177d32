/*
 * What the user got wrong before the program began: LIBOS and CONFIG_PATH. demi_init answers a positive errno, says why on standard error, and
 * the process lives. Each case runs in a process of its own.
 */
#define _GNU_SOURCE
#include <demi/libos.h>
#include <demi/sga.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[] = "/tmp/demikernel-environment-XXXXXX";
static int checks, failures;

struct problem {
    const char *text, *libos;
    const char *path;    /* CONFIG_PATH as it is, */
    const char *content; /* or a file that holds this */
    int expected;        /* an errno, or -1 for any positive one */
};

static const struct problem problems[] = {
    {"LIBOS names no libOS", "nonsense", NULL, NULL, ENODEV},
    {"LIBOS is a path", "../../etc/passwd", NULL, NULL, EINVAL},
    {"LIBOS is not UTF-8", "\xff\xfe\x80", NULL, NULL, EINVAL},
    {"CONFIG_PATH names a missing file", "catnap", "/nonexistent/demikernel.yaml", NULL, ENOENT},
    {"CONFIG_PATH names a folder", "catnap", "/tmp", NULL, EISDIR},
    {"the file is not YAML", "catnap", NULL, "demikernel: [unclosed\n\t: {", EINVAL},
    {"the file is binary", "catnap", NULL, "\x01\x02\xff\xfe\x7f", EILSEQ},
    {"the file is a list", "catnap", NULL, "- one\n- two\n", EINVAL},
    {"the file has an unknown key", "catnap", NULL, "demikernel:\n  no_such_key: 1\n", EINVAL},
    {"the file has an unknown section", "catnap", NULL, "no_such_section:\n  key: 1\n", EINVAL},
};

/* 0 when all is as it should be. */
static int attempt(const struct problem *problem) {
    char path[128];
    struct demi_args args;
    snprintf(path, sizeof path, "%s/demikernel.yaml", folder);
    memset(&args, 0, sizeof args);
    setenv("LIBOS", problem->libos, 1);
    unsetenv("CONFIG_PATH");
    if (problem->path) setenv("CONFIG_PATH", problem->path, 1);
    if (problem->content) {
        FILE *file = fopen(path, "w");
        if (!file || fputs(problem->content, file) < 0 || fclose(file) != 0) return 10;
        setenv("CONFIG_PATH", path, 1);
    }
    int answer = demi_init(&args), queue = 0;
    if (problem->expected == -1 ? answer <= 0 : answer != problem->expected) {
        printf("#   expected %d, got %d (%s)\n", problem->expected, answer, strerror(answer));
        fflush(stdout);
        return 11;
    }
    if (demi_socket(&queue, AF_INET, SOCK_STREAM, 0) != ENOSYS) return 12; /* nothing half-started is left behind */
    setenv("LIBOS", "catnap", 1);
    unsetenv("CONFIG_PATH");
    if (demi_init(&args) != 0 || demi_socket(&queue, AF_INET, SOCK_STREAM, 0) != 0 || queue != 500) return 13;
    return 0;
}

int main(void) {
    if (!mkdtemp(folder)) return 2;
    for (size_t i = 0; i < sizeof problems / sizeof *problems; i++) {
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            alarm(60);
            int result = attempt(&problems[i]);
            fflush(stdout);
            _exit(result);
        }
        int status = -1;
        int good = child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
        printf("%s %d - %s: demi_init answers an errno, and works once that is put right\n", good ? "ok" : "not ok", ++checks, problems[i].text);
        if (!good) printf("#   status %#x (exit 11: wrong answer; 12: a libOS is left behind; 13: the second demi_init failed)\n", (unsigned)status);
        failures += !good;
    }
    char path[128];
    snprintf(path, sizeof path, "%s/demikernel.yaml", folder);
    unlink(path);
    rmdir(folder);
    printf("1..%d\n", checks);
    return failures == 0 ? 0 : 1;
}
