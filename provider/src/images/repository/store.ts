import { InvalidImage } from "../../drivers/errors";

/** More than any vcdb.txt, vc-in.xml or manifest.json needs, bytes. */
export const MOST_TEXT = 1024 * 1024;

/** Where a repository's files are. Paths are relative to it, with `/` in between. */
export interface Store {
  /** The text of its vcdb.txt. */
  list(): Promise<string>;
  /**
   * @param what whose file it is, for messages
   * @throws NotFound, InvalidImage, Unreachable, Denied
   */
  text(path: string, what: string): Promise<string>;
  /** @returns undefined where there is none */
  textIfThere(path: string, what: string): Promise<string | undefined>;
  /** What is there of a file, without reading it. */
  look(path: string, what: string): Promise<StoredFile>;
}

/** A file of a repository. */
export interface StoredFile {
  /** As the vc-in.xml names it. */
  readonly name: string;
  /** An absolute path, or a URL. */
  readonly at: string;
  readonly isHere: boolean;
  /** Bytes; undefined where the server doesn't tell. */
  readonly size?: number;
  /** Changes with its content: size and time of change, or the server's ETag. Undefined where nothing tells. */
  readonly version?: string;
}

/** @throws InvalidImage for a name that no honest repository has */
export function checkName(file: string, what: string): void {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  if (file === "" || /^(\/|[a-z][a-z0-9+.-]*:\/\/)|[\x00-\x1f\x7f]/i.test(file)) {
    throw new InvalidImage(
      what,
      `names the file ${JSON.stringify(file)}`,
      "Only relative paths without control characters are allowed",
    );
  }
}
