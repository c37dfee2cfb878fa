package journal

import "io"

// Inspect calls fn for each record of a journal, from its beginning to the first
// record that is torn or damaged, and returns how many bytes hold good ones. It
// changes nothing, so that it can look at the file of a running Store, of which
// the last record may be there in part. The body is valid until fn returns; an
// error of fn ends the reading and is returned.
func Inspect(r io.Reader, fn func(Position, []byte) error) (intact int64, err error) {
	return scan(r, fn)
}
