package journal

// WriteFileTo is WriteFile on any file system.
var WriteFileTo = writeFile

// Buffered is how many bytes a file keeps for what waits to be written.
func (f *File) Buffered() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return cap(f.buf)
}

// Limits of what is buffered.
const (
	WriteSize = writeSize
	WriteRoom = writeRoom
)

// Room is how much of WriteRoom is taken.
func (s *Store) Room() int64 { return s.room.Load() }
