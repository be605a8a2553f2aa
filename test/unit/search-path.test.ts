import { expect } from "chai";
import { searchSystemFolders } from "../../provider/src/setup/search-path";

describe("the search path", () => {
  it("has the folders of administrators' programs, which a user's of Debian leaves out, after the user's own", () => {
    const environment = { PATH: "/usr/local/bin:/usr/bin:/bin:/usr/games" };
    searchSystemFolders(environment);
    expect(environment.PATH).to.equal("/usr/local/bin:/usr/bin:/bin:/usr/games:/usr/local/sbin:/usr/sbin:/sbin");
    searchSystemFolders(environment);
    expect(environment.PATH.match(/sbin/g)).to.have.lengthOf(3);
  });
});
