/* A FUSE file system over $BACKING that does as little as gateways to object stores do: it renames no folders, and knows
   no hard links, no modes, no times and no writing past the cache. */
#define FUSE_USE_VERSION 31
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define RESULT(call) ((call) < 0 ? -errno : 0)

static const char *backed(const char *path, char *buffer) {
    snprintf(buffer, PATH_MAX, "%s%s", getenv("BACKING"), path);
    return buffer;
}

static int get(const char *path, struct stat *found, struct fuse_file_info *file) {
    char real[PATH_MAX];
    return file ? RESULT(fstat(file->fh, found)) : RESULT(lstat(backed(path, real), found));
}

static int list(const char *path, void *buffer, fuse_fill_dir_t fill, off_t offset, struct fuse_file_info *file,
                enum fuse_readdir_flags flags) {
    char real[PATH_MAX];
    DIR *folder = opendir(backed(path, real));
    struct dirent *each;
    if (!folder)
        return -errno;
    while ((each = readdir(folder)))
        fill(buffer, each->d_name, NULL, 0, 0);
    closedir(folder);
    return 0;
}

static int make(const char *path, mode_t mode) {
    char real[PATH_MAX];
    return RESULT(mkdir(backed(path, real), mode));
}

static int remove_file(const char *path) {
    char real[PATH_MAX];
    return RESULT(unlink(backed(path, real)));
}

static int remove_folder(const char *path) {
    char real[PATH_MAX];
    return RESULT(rmdir(backed(path, real)));
}

static int move(const char *source, const char *target, unsigned int flags) {
    char from[PATH_MAX], to[PATH_MAX];
    struct stat found;
    if (flags || (!lstat(backed(source, from), &found) && S_ISDIR(found.st_mode)))
        return -ENOTSUP;
    return RESULT(rename(from, backed(target, to)));
}

static int open_as(const char *path, struct fuse_file_info *file, int flags, mode_t mode) {
    char real[PATH_MAX];
    int descriptor;
    if (file->flags & O_DIRECT)
        return -EINVAL;
    descriptor = open(backed(path, real), file->flags | flags, mode);
    file->fh = descriptor;
    return RESULT(descriptor);
}

static int open_file(const char *path, struct fuse_file_info *file) { return open_as(path, file, 0, 0); }

static int create(const char *path, mode_t mode, struct fuse_file_info *file) {
    return open_as(path, file, O_CREAT, mode);
}

static int load(const char *path, char *buffer, size_t size, off_t offset, struct fuse_file_info *file) {
    ssize_t done = pread(file->fh, buffer, size, offset);
    return done < 0 ? -errno : done;
}

static int store(const char *path, const char *buffer, size_t size, off_t offset, struct fuse_file_info *file) {
    ssize_t done = pwrite(file->fh, buffer, size, offset);
    return done < 0 ? -errno : done;
}

static int cut(const char *path, off_t size, struct fuse_file_info *file) {
    char real[PATH_MAX];
    return file ? RESULT(ftruncate(file->fh, size)) : RESULT(truncate(backed(path, real), size));
}

static int sync_file(const char *path, int data, struct fuse_file_info *file) { return RESULT(fsync(file->fh)); }

static int release(const char *path, struct fuse_file_info *file) { return RESULT(close(file->fh)); }

static int room(const char *path, struct statvfs *found) {
    char real[PATH_MAX];
    return RESULT(statvfs(backed(path, real), found));
}

static const struct fuse_operations operations = {
    .getattr = get, .readdir = list, .mkdir = make, .unlink = remove_file, .rmdir = remove_folder, .rename = move,
    .open = open_file, .create = create, .read = load, .write = store, .truncate = cut, .fsync = sync_file,
    .release = release, .statfs = room,
};

int main(int count, char *arguments[]) { return fuse_main(count, arguments, &operations, NULL); }
