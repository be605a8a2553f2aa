import { lstat, readFile, realpath, stat } from "node:fs/promises";
import { basename, join, normalize, relative } from "node:path";
import { InvalidImage, NotFound } from "../../drivers/errors";
import { checkName, MOST_TEXT, type Store, type StoredFile } from "./store";

/** A repository that is a folder. Nothing outside of it is read: neither `..` nor a symbolic link leads out. */
export class FolderStore implements Store {
  /** @param links whether symbolic links may lead elsewhere: where whoever runs this has made them */
  constructor(
    private readonly folder: string,
    private readonly links: "within" | "anywhere" = "within",
  ) {}

  list(): Promise<string> {
    return this.read(join(this.folder, "vcdb.txt"), `repository ${this.folder}`);
  }

  async text(path: string, what: string): Promise<string> {
    return this.read(await this.inside(path, what), what);
  }

  async textIfThere(path: string, what: string): Promise<string | undefined> {
    const isThere = await lstat(join(this.folder, path)).catch(() => undefined);
    return isThere ? this.text(path, what) : undefined;
  }

  async look(path: string, what: string): Promise<StoredFile> {
    const at = await this.inside(path, what);
    const { size, mtimeMs } = await stat(at);
    return { name: basename(path), at, isHere: true, size, version: `${size} ${mtimeMs}` };
  }

  private async inside(path: string, what: string): Promise<string> {
    checkName(path, what);
    const [file, wanted] = [normalize(path), join(this.folder, path)];
    const found = await realpath(wanted).catch(() => {
      throw new NotFound(
        what,
        `its file ${JSON.stringify(file)} is missing in ${this.folder}`,
        "Restore it, or mend the vc-in.xml",
      );
    });
    const from = this.links === "within" ? relative(await realpath(this.folder), found) : relative(this.folder, wanted);
    if (from.startsWith("..")) {
      throw new InvalidImage(
        what,
        `its file ${JSON.stringify(file)} lies outside the repository`,
        "Copy it into the repository",
      );
    }
    return found;
  }

  private async read(file: string, what: string): Promise<string> {
    const found = await stat(file).catch(() => undefined);
    if (!found?.isFile()) {
      throw new NotFound(what, `there is no file ${file}`, "Name a folder that holds a vcdb.txt and what it lists");
    }
    if (found.size > MOST_TEXT) {
      throw new InvalidImage(what, `${file} has ${found.size} bytes`, `At most ${MOST_TEXT} are read`);
    }
    return readFile(file, "utf8");
  }
}
