# For Doxygen: the comment at the head of a header becomes the documentation of the file, its indented lines code.
NR == 1 && /^\/\// { head = 1; print "/// @file" }
head && /^\/\// { sub(/^\/\//, "///"); sub(/^\/\/\/   /, "///      "); if (!/^\/\/\/      /) gsub(/</, "\\&lt;"); print; next }
{ head = 0; print }
