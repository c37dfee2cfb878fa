package journal

// WriteFileTo is WriteFile on any file system.
var WriteFileTo = writeFile
